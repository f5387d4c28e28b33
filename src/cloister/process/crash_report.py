"""What is known of a child process that ended as it should not have.

It says how a process ended and what it was, and nothing of what its user read: of an address the scheme, host and
port, of a message its name. What a child said of itself (its trace) is foreign text: it loses its control
characters and the rest of every address in it, and is cut.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import re
import sys
from collections.abc import Iterable
from typing import Annotated, Final, Literal, Self

import msgspec
from msgspec import Meta
from msgspec.structs import force_setattr

from ..ends import Crashed, End, SandboxViolation, signal_name
from ..errors import printable

__all__ = ["ID", "MAX_REPORT", "CrashReport", "ResourceUse", "SeenMessage"]

MAX_TRACE: Final = 16 * 1024
"""Bytes of UTF-8 that a report keeps of a trace. Python's own traces are cut at 100 frames (faulthandler) or 1000
(the recursion limit), which is more; the first and the last half are what tells."""
MAX_MESSAGES: Final = 32
MAX_REPORT: Final = 128 * 1024
"""Bytes of one file that are read. The bounds of a report's fields add up to some 90 KiB as JSON, where a quote
takes two bytes and any other character four at most."""

_NAME: Final = 64
_WORDS: Final = 600

ID: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")
# Bounded and without a choice to come back to: a hostile text of any form takes time that grows with its length.
_ADDRESS: Final = re.compile(
    r"""([a-z][a-z0-9+.-]{0,20}://)(?:[^\s/?#\\"'<>]*@)?([^\s/?#\\"'<>]*)([^\s"'<>]*)|\b(data:)\S+""", re.I
)
_CUT: Final = b"\n[...]\n"

Name = Annotated[str, Meta(max_length=_NAME)]
Words = Annotated[str, Meta(max_length=_WORDS)]
Amount = Annotated[int, Meta(ge=0, le=2**63 - 1)]
SeenMessage = tuple[Literal["sent", "received"], Name]
"""A message on a child's channel by its name: ``sent`` to the child, or ``received`` from it."""
_Field = Words | Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | bool | None


class ResourceUse(msgspec.Struct, frozen=True, kw_only=True):
    """What a process had used when it was last looked at; None is what nobody knows."""

    max_rss_bytes: Amount | None = None
    pss_bytes: Amount | None = None
    cpu_seconds: float | None = None
    age_seconds: float | None = None
    open_descriptors: Amount | None = None


class CrashReport(msgspec.Struct, frozen=True, kw_only=True):
    """One abnormal end. Whoever makes one, its texts are printable and cut to size; :meth:`of` makes a new one."""

    id: Annotated[str, Meta(pattern=rf"^{ID.pattern}$")]
    """UTC to the second and six random digits: sorts by time, and is safe as a file's name."""
    time: Annotated[datetime.datetime, Meta(tz=True)]
    """UTC."""
    kind: Name
    pid: Amount
    site: Annotated[str, Meta(max_length=300)] | None
    """Scheme, host and port of the page that it served."""
    plugin: Name | None = None
    """Name of the plugin that it ran."""
    end: Annotated[dict[Name, _Field], Meta(max_length=8)]
    """The class of :mod:`cloister.ends` as ``type``, and its fields."""
    sentence: Words
    """The end in words that finish "the process …"."""
    signal: Name | None
    syscall: Name | None
    """The system call that the sandbox refused."""
    trace: Annotated[str, Meta(max_length=MAX_TRACE)]
    messages: Annotated[tuple[SeenMessage, ...], Meta(max_length=MAX_MESSAGES)]
    """The last messages on its channels, the newest last."""
    usage: ResourceUse
    versions: Annotated[dict[Name, Name], Meta(max_length=32)]
    layers: Annotated[tuple[Name, ...], Meta(max_length=32)]
    """The layers of the sandbox that held it."""

    @classmethod
    def of(
        cls,
        *,
        kind: str,
        pid: int,
        end: End,
        site: str | None = None,
        plugin: str | None = None,
        trace: str = "",
        messages: Iterable[tuple[Literal["sent", "received"], str]] = (),
        layers: Iterable[str] = (),
        usage: ResourceUse | None = None,
    ) -> Self:
        """The report of an ``end`` that was just seen.

        ``site`` may be any address of the page: its scheme, host and port are kept, and None if it has no host.
        ``trace`` is what the process said at its end, foreign and of any length. Of ``messages`` the last
        32 are kept.
        """
        now = datetime.datetime.now(datetime.UTC)
        fields = {
            name: _private(value) if isinstance(value, str) else value
            for name, value in msgspec.structs.asdict(end).items()
        }
        died_of: str | None = None
        if isinstance(end, Crashed):
            died_of = signal_name(end.signal)
        elif isinstance(end, SandboxViolation):
            died_of = "SIGSYS"
        return cls(
            id=f"{now:%Y%m%dT%H%M%SZ}-{os.urandom(3).hex()}",
            time=now,
            kind=kind,
            pid=pid,
            site=_site(site),
            plugin=plugin,
            end={"type": type(end).__name__, **fields},
            sentence=_private(str(end)),
            signal=died_of,
            syscall=end.syscall if isinstance(end, SandboxViolation) else None,
            trace=_private(trace),
            messages=tuple(messages),
            usage=usage or ResourceUse(),
            versions=_versions(),
            layers=tuple(layers),
        )

    def __post_init__(self) -> None:
        """Clean every text, as msgspec calls this for what it decodes too."""
        if self.time.utcoffset() != datetime.timedelta(0):
            raise ValueError("the time is not UTC")
        if not isinstance(self.end.get("type"), str):
            raise ValueError("the end has no type")  # noqa: TRY004 - what msgspec makes its own error of
        clean: dict[str, object] = {
            "kind": _name(self.kind),
            "site": None if self.site is None else printable(self.site, 299),
            "end": {_name(k): _words(v) if isinstance(v, str) else v for k, v in self.end.items()},
            "plugin": None if self.plugin is None else _name(self.plugin),
            "sentence": _words(self.sentence),
            "signal": None if self.signal is None else _name(self.signal),
            "syscall": None if self.syscall is None else _name(self.syscall),
            "trace": _trace(self.trace),
            "messages": tuple((direction, _name(name)) for direction, name in self.messages[-MAX_MESSAGES:]),
            "versions": {_name(k): _name(v) for k, v in self.versions.items()},
            "layers": tuple(map(_name, self.layers[:32])),
        }
        for name, value in clean.items():
            force_setattr(self, name, value)


def _private(text: str) -> str:
    """``text`` with every address in it cut to its scheme, host and port."""
    return _ADDRESS.sub(lambda m: m[4] + "…" if m[4] else m[1] + m[2] + ("/…" if m[3] else ""), text)


def _site(address: str | None) -> str | None:
    match = _ADDRESS.match(address or "")
    return match[1].lower() + match[2].lower() if match and match[2] else None


def _name(text: str) -> str:
    return printable(text, _NAME - 1)


def _words(text: str) -> str:
    return printable(text, _WORDS - 1)


def _trace(text: str) -> str:
    data = text.replace("\r\n", "\n").replace("\t", " ").encode(errors="replace")
    if len(data) > MAX_TRACE:
        half = (MAX_TRACE - len(_CUT)) // 2
        data = data[:half] + _CUT + data[-half:]
    # An unprintable character becomes one of a byte, so it stays as short as it is.
    return "\n".join(printable(line, MAX_TRACE) for line in data.decode(errors="ignore").split("\n"))


@functools.cache
def _versions() -> dict[str, str]:
    """What runs here. Looked up once, and not before it is asked for: it takes some 20 ms."""
    from importlib import metadata

    here = os.uname()
    found = {
        "python": sys.version.split()[0],
        "kernel": here.release,
        "architecture": here.machine,
    }
    for library in ("cloister", "plutoprint", "pillow", "h2", "turbohtml"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found
