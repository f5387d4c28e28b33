"""plugins ── plugin_host: a plugin's code is loaded, its functions are called, and it calls back. The client is the
host.

One thing happens at a time: the host asks, the plugin answers; while it works on an answer, it may ask the host for
its functions, one after the other, and tell what was printed and logged. What travels as a value is in
:mod:`cloister.ipc.values`.
"""

import enum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .base import Blob, ByteCount, Descriptor, Event, Interface, Reply, Request
from .zygote import ModuleName

__all__ = [
    "MAX_BUFFERS",
    "PLUGIN",
    "Call",
    "CallHost",
    "CloseStream",
    "HostReturned",
    "Language",
    "Load",
    "LoadFunction",
    "LoadProgram",
    "Logged",
    "Next",
    "Options",
    "Outcome",
    "PreloadOptions",
    "Printed",
    "Raised",
    "Returned",
    "StreamId",
]

MAX_BUFFERS = 6
"""Buffers in shared memory that come with one message; smaller ones travel in its body."""

Identifier = Annotated[str, Meta(min_length=1, max_length=128)]
BufferCount = Annotated[int, Meta(ge=0, le=MAX_BUFFERS)]
StreamId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Path = Annotated[str, Meta(pattern=r"^/[^\x00]{0,4095}\Z")]
NamespaceName = Literal[
    "pid_namespace", "network_namespace", "mount_namespace", "ipc_namespace", "uts_namespace"
]
CapabilityName = Annotated[str, Meta(pattern=r"^CAP_[A-Z_]{1,40}\Z")]
Paths = Annotated[tuple[Path, ...], Meta(max_length=256)]
Address = Annotated[str, Meta(max_length=64)]
Variable = Annotated[str, Meta(min_length=1, max_length=2048)]


class Language(enum.StrEnum):
    """What a plugin is written in."""

    PYTHON = "python"
    JAVASCRIPT = "javascript"
    WASM = "wasm"
    EXECUTABLE = "executable"  # a program of its own, which speaks JSON lines


class PreloadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For all that one branch of the zygote forks."""

    modules: Annotated[tuple[ModuleName, ...], Meta(max_length=64)] = ()
    """Imported before lock-down, besides the standard library; their folders stay readable."""
    read_paths: Paths = ()
    threads: bool = False
    listens: bool = False
    """Whether some of them are handed sockets that listen."""
    language: Language = Language.PYTHON
    write_paths: Paths = ()
    delete_paths: Paths = ()
    metadata_paths: Paths = ()
    shares: Annotated[tuple[NamespaceName, ...], Meta(max_length=5)] = ()
    """Namespaces of the host's that it stays in."""
    keep: Annotated[tuple[CapabilityName, ...], Meta(max_length=64)] = ()
    """Linux capabilities that it keeps, in its user namespace."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start options of one process."""

    memory: ByteCount = 256 * 2**20
    """Bytes beyond those that the process begins with."""
    open_files: Annotated[int, Meta(ge=16, le=4096)] = 32
    file_size: ByteCount = 64 * 2**20
    result: ByteCount = 8 * 2**20
    environment: Annotated[tuple[tuple[Variable, Variable], ...], Meta(max_length=64)] = ()
    fuel: Annotated[int, Meta(ge=0, le=2**62)] = 0
    """Instructions of WebAssembly in one call; 0 is without limit."""
    knows_time: bool = False
    """Whether the clock goes on while it works on an answer."""
    listening: Annotated[tuple[tuple[Address, Address], ...], Meta(max_length=4)] = ()
    """Of each socket that listens, in the order of the channels that they come as: what it was granted as, and where it
    listens."""


class Outcome(enum.StrEnum):
    """What came of a request."""

    VALUE = "value"
    STREAM = "stream"  # it returned a generator: `stream` is its number
    END = "end"  # the generator has no more
    RAISED = "raised"  # and for the rest: `body` holds a Raised
    NOT_SENDABLE = "not_sendable"
    TOO_LARGE = "too_large"
    NO_MEMORY = "no_memory"
    NO_FUNCTION = "no_function"
    NO_FUEL = "no_fuel"
    REFUSED = "refused"  # something that was granted is of no use to it
    BROKEN = "broken"  # a program does not keep to its protocol: what it says later cannot be relied on


class Raised(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An exception, as text."""

    type_name: Annotated[str, Meta(max_length=200)]
    message: Annotated[str, Meta(max_length=4000)]
    traceback: Annotated[str, Meta(max_length=32_000)] = ""


class Returned(Reply, frozen=True):
    """A value, an exception, or a stream. After a Load the value is the list of names that can be called."""

    outcome: Outcome
    body: Blob
    buffers: BufferCount = 0
    stream: StreamId = 0

    def expected_descriptors(self) -> tuple[Descriptor, ...]:
        return (Descriptor.SEALED_MEMFD,) * self.buffers + super().expected_descriptors()


class Load(Request[Returned], frozen=True):
    """Run the plugin's source, in UTF-8. Again: forget what it left behind, and run it anew."""

    name: Identifier
    body: Blob


class LoadFunction(Request[Returned], frozen=True):
    """The same for a function of the host's program: ``body`` is what :mod:`cloister.plugins.functions` made of it."""

    name: Identifier
    body: Blob


class LoadProgram(Request[Returned], frozen=True):
    """The plugin is a program that runs already. With this come the ends of its pipes: what it reads, what it writes,
    what it writes on standard error."""

    descriptors = (Descriptor.PIPE, Descriptor.READING_PIPE, Descriptor.READING_PIPE)

    name: Identifier
    functions: Annotated[tuple[Identifier, ...], Meta(max_length=256)]
    """What it says that it has: a program is not asked."""


class Call(Request[Returned], frozen=True):
    """Call ``function``; the value in ``body`` is the list of its arguments, and the dict of those that have names."""

    function: Identifier
    body: Blob
    buffers: BufferCount = 0

    def expected_descriptors(self) -> tuple[Descriptor, ...]:
        return (Descriptor.BITMAP,) * self.buffers + super().expected_descriptors()


class Next(Request[Returned], frozen=True):
    """The next value of a stream."""

    stream: StreamId


class CloseStream(Request[Returned], frozen=True):
    """Close the generator behind a stream; closing one that is not there is fine."""

    stream: StreamId


class HostReturned(Reply, frozen=True):
    """What a host function gave, or a :class:`Raised`."""

    outcome: Outcome
    body: Blob
    buffers: BufferCount = 0

    def expected_descriptors(self) -> tuple[Descriptor, ...]:
        return (Descriptor.BITMAP,) * self.buffers + super().expected_descriptors()


class CallHost(Request[HostReturned], frozen=True):
    """Call a function that the host registered; the value in ``body`` is the list of its arguments. Only while the host
    waits for an answer."""

    function: Identifier
    body: Blob
    buffers: BufferCount = 0

    def expected_descriptors(self) -> tuple[Descriptor, ...]:
        return (Descriptor.SEALED_MEMFD,) * self.buffers + super().expected_descriptors()


class Printed(Event, frozen=True):
    """What the plugin wrote on standard output, or on standard error."""

    to_stderr: bool
    text: Annotated[
        str, Meta(max_length=15_000)
    ]  # of four bytes each at the most, so that a packet holds them


class Logged(Event, frozen=True):
    """A record of the plugin's logging."""

    level: Annotated[int, Meta(ge=0, le=100)]
    logger: Annotated[str, Meta(max_length=200)]
    text: Annotated[str, Meta(max_length=10_000)]


PLUGIN = Interface(
    "plugin_host",
    client=(Load, LoadFunction, LoadProgram, Call, Next, CloseStream),
    server=(CallHost, Printed, Logged),
)
