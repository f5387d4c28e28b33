"""What ``cloister doctor --attack`` puts up for its processes to reach for. All of it is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from cloister.interfaces.attack import Targets
from cloister.sandbox.kernel import syscall
from cloister.sandbox.privileges import NOBODY

__all__ = ["targets"]

_VARIABLE: Final = "CLOISTER_DOCTOR"
# include/uapi/linux/ipc.h, keyctl.h, asm-generic/fcntl.h
_PRIVATE: Final = 0
_REMOVE: Final = 0
_SESSION_KEYRING: Final = -3
_KEYRING_ID: Final = 0
_INVALIDATE: Final = 21
_CREATE_FOR_ALL: Final = 0o102  # O_RDWR | O_CREAT

_LEAST_PID: Final = 1024
"""A pid namespace has its own small numbers. The victim's is to be none of those, or one that is signalled there may
be the attacker itself."""


@contextlib.contextmanager
def targets() -> Iterator[Targets]:
    """Make them, and clean up, whatever comes."""
    with ExitStack() as stack:
        secret = f"secret-{os.getpid()}-{os.urandom(8).hex()}"
        stack.enter_context(_variable(secret))
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cloister-")))
        root.chmod(0o755)
        _written(root / "secret", 0o644).write_text(secret)
        folder = root / "folder"
        folder.mkdir()
        for name in ("one", "other"):
            _as_theirs(_written(folder / name, 0o666))
        _as_theirs(folder)
        folder.chmod(0o777)
        stream = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        datagram = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagram.bind(("127.0.0.1", 0))
        abstract = b"\0cloister-doctor-" + secret.encode()
        path = root / "socket"
        for kind, address in (
            (socket.SOCK_STREAM, abstract),
            (socket.SOCK_DGRAM, abstract + b".datagrams"),
            (socket.SOCK_SEQPACKET, abstract + b".packets"),
            (socket.SOCK_STREAM, os.fsencode(path)),
        ):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            listener.bind(address)
            if kind != socket.SOCK_DGRAM:
                listener.listen(64)
        path.chmod(0o777)
        yield Targets(
            secret=str(root / "secret"),
            folder=str(folder),
            stream_port=stream.getsockname()[1],
            datagram_port=datagram.getsockname()[1],
            abstract=abstract,
            socket=str(path),
            victim=stack.enter_context(_victim()).pid,
            segment=_system_v(stack, "shm", _PRIVATE, 4096, 0o666),
            messages=_system_v(stack, "msg", _PRIVATE, 0o666),
            semaphores=_system_v(stack, "sem", _PRIVATE, 1, 0o666),
            queue=_queue(stack),
            key=_key(stack, secret),
            variable=secret,
        )


@contextlib.contextmanager
def _variable(secret: str) -> Iterator[None]:
    os.environ[_VARIABLE] = secret
    try:
        yield
    finally:
        del os.environ[_VARIABLE]


def _written(path: Path, mode: int) -> Path:
    path.touch()
    path.chmod(mode)
    return path


def _as_theirs(path: Path) -> None:
    """Root's processes become nobody: this is to be theirs then, so that it is not its owner that saves it."""
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):
            shutil.chown(path, NOBODY, NOBODY)


@contextlib.contextmanager
def _victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for ever, or until this one is gone."""
    with contextlib.ExitStack() as stack:
        while True:
            victim = stack.enter_context(_waiting())
            if victim.pid >= _LEAST_PID:
                break
            victim.kill()
        yield victim


@contextlib.contextmanager
def _waiting() -> Iterator[subprocess.Popen[bytes]]:
    def start(**user: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user
        )

    try:
        theirs = {"user": NOBODY, "group": NOBODY, "extra_groups": ()} if os.geteuid() == 0 else {}
        process = start(**theirs)
    except PermissionError:  # this root may not become another
        process = start()
    with process:
        yield process
        process.kill()


def _system_v(stack: ExitStack, kind: str, *arguments: int) -> int:
    try:
        number = syscall(f"{kind}get", *arguments)
    except OSError:  # not in this kernel, or there are too many
        return -1
    remove = (number, 0, _REMOVE, None) if kind == "sem" else (number, _REMOVE, None)
    stack.callback(syscall, f"{kind}ctl", *remove)
    return number


def _queue(stack: ExitStack) -> str:
    name = f"cloister-doctor-{os.getpid()}"
    umask = os.umask(0)
    try:
        os.close(syscall("mq_open", name.encode(), _CREATE_FOR_ALL, 0o666, None))
    except OSError:
        return ""
    finally:
        os.umask(umask)
    stack.callback(syscall, "mq_unlink", name.encode())
    return name


def _key(stack: ExitStack, secret: str) -> int:
    try:
        syscall("keyctl", _KEYRING_ID, _SESSION_KEYRING, 1, 0, 0)  # what cannot be taken back is not made
        key = syscall(
            "add_key", b"user", b"cloister-doctor-" + secret.encode(), b"secret", 6, _SESSION_KEYRING
        )
    except OSError:  # containers refuse it
        return 0
    stack.callback(syscall, "keyctl", _INVALIDATE, key, 0, 0, 0)
    return key
