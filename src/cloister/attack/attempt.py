"""What an attempt is, and what an errno says about who stopped it."""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from cloister.interfaces.attack import Targets
from cloister.sandbox import Layer

__all__ = ["CATALOGUE", "KINDS", "ZYGOTES", "Attempt", "Harm", "add", "attempt"]

KINDS: Final = ("web_content", "request_server", "lookup_server", "image_decoder", "plugin_host")
BRANCHES: Final = tuple(f"zygote of {kind}" for kind in KINDS)
ZYGOTES: Final = frozenset({"zygote", *BRANCHES})
"""The processes that fork: the zygote itself, and its branch for each kind."""


class Harm(enum.StrEnum):
    """What an attempt would do, were it to succeed."""

    FILES = "files"
    PROC = "/proc, /sys and /dev"
    SOCKETS = "sockets"
    ABSTRACT_SOCKETS = "abstract sockets"
    HELD_DESCRIPTORS = "the descriptors it holds"
    LEFT_DESCRIPTORS = "descriptors left open"
    ENVIRONMENT = "the environment"
    SHARED_MEMORY = "shared memory and queues"
    KEYRINGS = "keyrings"
    PROCESSES = "processes"
    SIGNALS = "signals"
    PTRACE = "ptrace and its like"
    TERMINAL = "terminal input"
    EXECUTABLE_MEMORY = "executable memory"
    OTHER_ABIS = "other ways into the kernel"
    IO_URING = "io_uring"
    BPF = "bpf"
    PERF = "perf"
    USERFAULTFD = "userfaultfd"
    MOUNT = "mount"
    NAMESPACES = "namespaces"
    MODULES = "modules"
    MACHINE = "the machine"
    OWN_LAYERS = "undoing its own layers"
    CORE_DUMPS = "core dumps"
    EXHAUSTION = "resource exhaustion"


class Attempt(NamedTuple):
    """One attempt: ``run`` returns when it was let happen, and raises OSError when it was not. Only the errnos that
    tell of a layer count as a denial: any other means that the kernel went on to look at the arguments."""

    name: str
    harm: Harm
    sentence: str
    run: Callable[[Targets], None]
    layers: Mapping[int, Layer] = MappingProxyType({})
    """Which layer an errno tells of, where it is not seccomp."""
    allowed: frozenset[str] = frozenset()
    """The kinds of process that are there for it."""

    def stopped_by(self, number: int) -> Layer | None:
        """The layer that ``number`` tells of; ``None`` when it tells of none, and the attempt got through."""
        return {**_USUAL, **self.layers}.get(number)


_USUAL: Final = {errno.EPERM: Layer.CAPABILITIES, errno.EACCES: Layer.LANDLOCK}

CATALOGUE: Final[dict[str, Attempt]] = {}
"""Every attempt by name, in the order in which they are made; :mod:`cloister.attack.catalogue` fills it."""


def add(each: Attempt) -> None:
    """Put an attempt into the catalogue."""
    if each.name in CATALOGUE:
        raise ValueError(f"two attempts have the name {each.name!r}")
    CATALOGUE[each.name] = each


def attempt(
    harm: Harm, layers: Mapping[int, Layer] | None = None, allowed: frozenset[str] = frozenset()
) -> Callable[[Callable[[Targets], None]], Callable[[Targets], None]]:
    """A function as an attempt: its name is the attempt's, its docstring the sentence."""

    def enter(run: Callable[[Targets], None]) -> Callable[[Targets], None]:
        name, sentence = run.__name__.replace("_", " "), (run.__doc__ or "").strip()
        add(Attempt(name, harm, sentence, run, layers or {}, allowed))
        return run

    return enter
