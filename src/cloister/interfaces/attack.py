"""The doctor ── a process that stands in the place of a child, locked down like it, and tries what it must not do.

The doctor is the client. It is for `cloister doctor --attack` and for the tests: no page ever has such a process.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from .base import Interface, Port, ProcessId, Reply, Request
from .zygote import ModuleName

__all__ = ["ATTACK", "Options", "PreloadOptions", "Targets", "Tried", "Try"]

AttemptName = Annotated[str, Meta(min_length=1, max_length=80)]
Path = Annotated[str, Meta(max_length=1024)]
KernelId = Annotated[int, Meta(ge=-1, le=2**31 - 1)]


class Targets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What there is to reach for, outside: made by the doctor, harmless to whoever reaches it, and open to every user.
    What this machine does not have is 0, -1 or empty."""

    secret: Path  # a file that everybody may read
    folder: Path  # a folder that everybody may write, with the files ``one`` and ``other`` in it
    stream_port: Port  # TCP, on 127.0.0.1
    datagram_port: Port  # UDP, on 127.0.0.1
    abstract: Annotated[bytes, Meta(max_length=107)]  # a listening Unix socket without a path
    socket: Path  # one with a path
    victim: ProcessId  # a process that sleeps, of the user that the sandboxed processes have outside
    segment: KernelId  # System V shared memory
    messages: KernelId  # a System V message queue
    semaphores: KernelId
    queue: Annotated[str, Meta(max_length=60)]  # a POSIX message queue
    key: Annotated[
        int, Meta(ge=0, le=2**31 - 1)
    ]  # in the session keyring that the processes are started with
    variable: Annotated[str, Meta(max_length=60)]  # the value of an environment variable of the doctor's


class PreloadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``module`` is whose place is taken: a kind's own, or none for that of the zygote, which may only fork."""

    module: ModuleName | None = None
    options: bytes = b""  # for its preload()
    without: frozenset[str] = frozenset()  # layers to leave out, to see what stands behind them


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``child`` are the start options of the kind whose place is taken; without them the process stays what its branch
    of the zygote is."""

    targets: Targets
    child: bytes | None = None


class Tried(Reply, frozen=True):
    """``errno`` is what the kernel said, 0 where it let it happen; ``call`` is the last system call that was made, and
    ``filtered`` whether it is the process's own filter that says so. A process that makes each attempt in another one
    says which ``signal`` ended that."""

    errno: Annotated[int, Meta(ge=0, le=4095)]
    call: Annotated[str, Meta(max_length=64)]
    filtered: bool
    signal: Annotated[int, Meta(ge=0, le=64)] = 0


class Try(Request[Tried], frozen=True):
    """Make the attempt of this name."""

    name: AttemptName


ATTACK = Interface("attack", client=(Try,))
