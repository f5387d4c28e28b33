"""What processes share by name or number: System V and POSIX queues, and keyrings."""

from __future__ import annotations

import ctypes
import errno
from typing import Final

from cloister.interfaces.attack import Targets
from cloister.sandbox import Layer

from .attempt import Harm, attempt
from .calls import ABSENT, call, closing, deny

_SYSTEM_V: Final = {errno.EINVAL: Layer.IPC_NAMESPACE, errno.EIDRM: Layer.IPC_NAMESPACE}
_POSIX: Final = {
    errno.ENOENT: Layer.IPC_NAMESPACE,
    errno.EMFILE: Layer.LIMITS,
    errno.EACCES: Layer.IPC_NAMESPACE,
}

# include/uapi/linux/ipc.h, sem.h, keyctl.h
_STAT: Final = 2
_GETVAL: Final = 12
_NOWAIT: Final = 0o4000
_SESSION_KEYRING: Final = -3
_PROCESS_KEYRING: Final = -2
_USER_KEYRING: Final = -4
_READ: Final = 11
_SEARCH: Final = 10
_DESCRIBE: Final = 6
_LINK: Final = 8


def _key_name(at: Targets) -> bytes:
    """Each doctor's own: two in one session share a keyring, where a second key of the same name replaces the first."""
    return b"cloister-doctor-" + at.variable.encode() + b"\0"


def _there(number: int) -> int:
    if number <= 0:
        raise deny(ABSENT, "this machine has none")
    return number


@attempt(Harm.SHARED_MEMORY, _SYSTEM_V)
def attach_shared_memory(at: Targets) -> None:
    """Maps a System V segment that every user may write."""
    if at.segment < 0:
        raise deny(ABSENT, "this machine has none")
    call("shmdt", call("shmat", at.segment, 0, 0))


@attempt(Harm.SHARED_MEMORY, _SYSTEM_V)
def read_a_message_queue(at: Targets) -> None:
    """Takes a message from a System V queue that every user may read."""
    if at.messages < 0:
        raise deny(ABSENT, "this machine has none")
    call("msgrcv", at.messages, ctypes.create_string_buffer(64), 8, 0, _NOWAIT)


@attempt(Harm.SHARED_MEMORY, _SYSTEM_V)
def read_a_semaphore(at: Targets) -> None:
    """Reads a System V semaphore that every user may read."""
    if at.semaphores < 0:
        raise deny(ABSENT, "this machine has none")
    call("semctl", at.semaphores, 0, _GETVAL, 0)


@attempt(Harm.SHARED_MEMORY, _POSIX)
def open_a_queue_by_name(at: Targets) -> None:
    """Opens a POSIX message queue that every user may read and write."""
    if not at.queue:
        raise deny(ABSENT, "this machine has none")
    with closing(call("mq_open", at.queue.encode() + b"\0", 2, 0, None)):
        pass


_KEYS: Final = {
    errno.EACCES: Layer.OWN_KEYRING,
    errno.ENOKEY: Layer.OWN_KEYRING,
}


@attempt(Harm.KEYRINGS, _KEYS)
def read_a_key(at: Targets) -> None:
    """Reads a key of the session that it was started in, by its number."""
    call("keyctl", _READ, _there(at.key), ctypes.create_string_buffer(64), 64)


@attempt(Harm.KEYRINGS, _KEYS)
def find_a_key(at: Targets) -> None:
    """Finds that key by its name."""
    _there(at.key)
    call("keyctl", _SEARCH, _SESSION_KEYRING, b"user\0", _key_name(at), 0)


@attempt(Harm.KEYRINGS, _KEYS)
def request_a_key(at: Targets) -> None:
    """Has the kernel look for that key in all of its keyrings."""
    _there(at.key)
    call("request_key", b"user\0", _key_name(at), None, 0)


@attempt(Harm.KEYRINGS, _KEYS)
def keep_a_key(_at: Targets) -> None:
    """Makes a key in the kernel's memory, in a keyring of its own."""
    call("add_key", b"user\0", b"cloister-doctor-own\0", b"x", 1, _PROCESS_KEYRING)


@attempt(Harm.KEYRINGS, _KEYS)
def take_the_keyring_of_its_user(_at: Targets) -> None:
    """Links the keyring of its user into one of its own."""
    call("keyctl", _LINK, _USER_KEYRING, _PROCESS_KEYRING)
