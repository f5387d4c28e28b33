"""What a plugin may use: asked for by its manifest, bounded by the host."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..errors import InvalidArgument
from ..process.size import size

__all__ = ["DEFAULTS", "Limits"]

_SIZES: Final = ("memory", "file_size", "output", "result", "disk")
_MIB: Final = 2**20


class Limits(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Limits of one plugin; None is "not said", and then :data:`DEFAULTS` says it. Sizes are bytes, or a text such as
    ``"50 MiB"``; times are seconds.

    A manifest may ask for less than its host allows, never for more.
    """

    memory: int | str | None = None
    """Of its own memory, beyond what every plugin's process begins with."""
    timeout: float | None = None
    """Of one call, by the clock on the wall."""
    cpu_time: float | None = None
    """Of one call, of processor time."""
    fuel: int | None = None
    """Instructions of one call, of a plugin in WebAssembly: the same on every machine. Others have none."""
    cpu_percent: float | None = None
    """Of one core, at all times."""
    threads: bool | None = None
    """Whether it may start threads. How many is bounded by its memory, and by 1024 for all plugins together."""
    processes: int | None = None
    """How many it may start, if it is a program, or runs any; no plugin in a language that Cloister runs may."""
    open_files: int | None = None
    file_size: int | str | None = None
    """Of one file, and of one buffer in shared memory."""
    output: int | str | None = None
    """Of what one call prints and logs."""
    result: int | str | None = None
    """Of one result, buffers not counted. What is decoded may take seventy times that in the host's memory."""

    disk: int | str | None = None
    """By how much the folders that it may write in may grow in one call."""
    cpu_weight: int | None = None
    """Its share of the processors while others want them too: 100 is what every program has. Where cgroups are."""
    io_weight: int | None = None
    """The same of the disks."""

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if value is not None:
                msgspec.structs.force_setattr(self, name, size(name, value))
        for name in ("timeout", "cpu_time"):
            if (value := getattr(self, name)) is not None and not 0 < value < 1e6:
                raise InvalidArgument(f"{name} is {value!r}: seconds, more than 0")
        if self.fuel is not None and not 0 < self.fuel <= 2**62:
            raise InvalidArgument(f"fuel is {self.fuel!r}: instructions, more than 0")
        for name in ("cpu_weight", "io_weight"):
            if (value := getattr(self, name)) is not None and not 1 <= value <= 10_000:
                raise InvalidArgument(f"{name} is {value!r}: 1 to 10000; 100 is what every program has")
        if self.cpu_percent is not None and not self.cpu_percent >= 1:
            raise InvalidArgument(f"cpu_percent is {self.cpu_percent!r}: 1 is the least, 200 are two cores")
        if self.processes is not None and not 0 <= self.processes <= 1024:
            raise InvalidArgument(f"processes is {self.processes!r}: 0 to 1024")
        if self.open_files is not None and not 16 <= self.open_files <= 4096:
            raise InvalidArgument(
                f"open_files is {self.open_files!r}: 16 to 4096; Cloister's own are among them"
            )

    def within(self, host: Limits) -> Limits:
        """What a plugin gets that asks for this, where ``host`` says what it may have at the most."""
        return Limits(
            **{name: _least(getattr(self, name), getattr(host, name)) for name in self.__struct_fields__}
        )

    def over(self, other: Limits) -> Limits:
        """This, and ``other`` wherever it says nothing."""
        return Limits(**{
            name: other_value if (value := getattr(self, name)) is None else value
            for name, other_value in msgspec.structs.asdict(other).items()
        })  # fmt: skip

    def filled(self) -> Limits:
        """With the default wherever nothing was said."""
        return self.over(DEFAULTS)

    def bytes_of(self, name: str) -> int:
        """The limit ``name``, which is a size that was said or filled in."""
        value = getattr(self, name)
        assert isinstance(value, int), name  # noqa: S101 - for the type checker: __post_init__ made it one
        return value

    def __hash__(self) -> int:
        return hash(msgspec.structs.astuple(self))


def _least(asked: Any, most: Any) -> Any:
    return most if asked is None else asked if most is None else min(asked, most)


DEFAULTS: Final = Limits(
    memory=256 * _MIB,
    timeout=30.0,
    threads=False,
    processes=0,
    open_files=32,
    file_size=64 * _MIB,
    output=_MIB,
    result=8 * _MIB,
    disk=1024 * _MIB,
)
"""``cpu_time``, ``cpu_percent`` and the weights are not limited unless something is said."""
