"""Values between a program and a plugin: plain data, and buffers in shared memory.

None, bool, int of any size, float, str, bytes, list, dict and datetime arrive as what they were; a tuple arrives as a
list. Whatever has the buffer protocol (a numpy array, an Arrow buffer, a bytearray) arrives as an array where both
sides have numpy and it was one, and as a memoryview otherwise: for the larger ones the very memory that was sent, and
read-only unless it is a SharedBuffer that was sent to be written to. Nothing else is sent, and nothing is made of a
class that the peer names: there is no pickle here.
"""

from __future__ import annotations

import datetime
import math
import mmap
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from ..errors import BadMessage, NotSendable, descriptors_left
from ..interfaces.plugin_host import MAX_BUFFERS
from . import memory
from .codec import decoded
from .descriptors import Descriptors
from .shared_buffer import owner_of

__all__ = ["DEEPEST", "pack", "pack_call", "unpack"]

DEEPEST: Final = 100
"""Lists and dicts inside each other: a value that holds itself ends here."""
INLINE_BUFFER: Final = 64 * 1024
"""Bytes of a buffer that travel with the rest of the value: a memfd and a mapping cost more than to copy them."""

_PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})
_BIG_INT, _DATETIME, _BUFFER = 1, 2, 3  # of msgpack's extension types
_FORMATS: Final = "?bBhHiIlLqQfd"
"""Of one element, as the module ``struct`` has them, in the order of bytes of this machine."""


class _Buffer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A buffer: inside, or descriptor number ``index`` of the message."""

    format: Annotated[str, Meta(pattern=rf"^[{_FORMATS}]\Z")]
    shape: Annotated[tuple[Annotated[int, Meta(ge=0, le=2**48)], ...], Meta(min_length=1, max_length=16)]
    is_array: bool
    index: Annotated[int, Meta(ge=0, lt=MAX_BUFFERS)] = 0
    inside: bytes | None = None


_encode: Final = msgspec.msgpack.Encoder().encode
_buffer_decoder: Final = msgspec.msgpack.Decoder(_Buffer)

_Where = tuple[Any, Any] | str  # a name, or where the parent is and which key or index this has in it


def pack(value: object, where: str, *, writable: bool = False) -> tuple[bytes, list[int]]:
    """The body that stands for ``value``, and memfds, which the caller closes or gives away.

    ``where`` is its name in errors ("args"). ``writable``: a SharedBuffer may be written to where it arrives. Raises
    :class:`NotSendable`, OutOfDescriptors, OSError (EFBIG: a buffer is larger than a file may be).
    """
    return _packed(lambda packer: packer.plain(value, where, 0), where, writable)


def pack_call(
    arguments: Sequence[object], named: Mapping[str, object], *, writable: bool = False
) -> tuple[bytes, list[int]]:
    """The same for the list of ``arguments`` and the dict of the ``named`` ones, which are "args" and "named"."""
    return _packed(
        lambda packer: (packer.plain(list(arguments), "args", 0), packer.plain(dict(named), "named", 0)),
        "args",
        writable,
    )


def _packed(plain: Callable[[_Packer], object], where: str, writable: bool) -> tuple[bytes, list[int]]:
    packer = _Packer(where, writable)
    try:
        try:
            body = _encode(plain(packer))
        except OverflowError:  # an int of more than 64 bits, which is rare: look for it only now
            packer.close()
            packer.wide = True
            body = _encode(plain(packer))
    except BaseException as error:
        packer.close()
        if isinstance(error, OverflowError | UnicodeEncodeError):
            raise NotSendable(f"{where}: {_CANNOT[type(error)]}") from None
        raise
    return body, packer.memfds


_CANNOT: Final = {
    OverflowError: "a key of a dict is an int of more than 64 bits",
    UnicodeEncodeError: "a str holds half of a surrogate pair, which is no character",
}


class _Packer:
    """The memfds of one message. ``wide``: an int may have any size."""

    def __init__(self, name: str, writable: bool) -> None:
        self.name = name
        self._writable = writable
        self.memfds: list[int] = []
        self.wide = False

    def close(self) -> None:
        while self.memfds:
            os.close(self.memfds.pop())

    def plain(self, value: Any, where: _Where, depth: int) -> Any:
        """``value`` as msgpack has it. What is plain throughout is returned as it is, and not walked."""
        kind = type(value)
        if kind in _PLAIN:
            return self._int(value) if self.wide and kind is int else value
        if depth >= DEEPEST:
            raise NotSendable(f"{_path(where)} nests deeper than {DEEPEST} (or holds itself)")
        if kind is list or kind is tuple:
            if not self.wide and _PLAIN.issuperset(map(type, value)):
                return value
            return [self.plain(each, (where, index), depth + 1) for index, each in enumerate(value)]
        if kind is dict:
            return self._dict(value, where, depth)
        if kind is datetime.datetime:
            return msgspec.msgpack.Ext(_DATETIME, value.isoformat().encode())
        return self._buffer(value, where)

    def _dict(self, value: dict[Any, Any], where: _Where, depth: int) -> dict[Any, Any]:
        if not _PLAIN.issuperset(map(type, value)):
            wrong = next(key for key in value if type(key) not in _PLAIN)
            raise NotSendable(
                f"{_path(where)} has a key of type {_name(wrong)}; keys are str, int, float, bytes, bool, None"
            )
        if not self.wide and _PLAIN.issuperset(map(type, value.values())):
            return value
        return {key: self.plain(each, (where, key), depth + 1) for key, each in value.items()}

    def _int(self, value: int) -> object:
        if -(2**63) <= value < 2**64:
            return value
        return msgspec.msgpack.Ext(
            _BIG_INT, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        )

    def _buffer(self, value: Any, where: _Where) -> msgspec.msgpack.Ext:
        what = f"{_path(where)} is a {_name(value)}"
        try:
            view = memoryview(value)
        except (TypeError, ValueError, BufferError):  # numpy has elements that no buffer has, such as dates
            raise NotSendable(f"{what}, which does not travel: {_SENDABLE}") from None
        if not view.ndim:
            raise NotSendable(f"{what} without a dimension: send a number, as its item() gives it")
        if len(view.format) != 1 or view.format not in _FORMATS:
            raise NotSendable(f"{what} with elements {view.format!r}: those of {', '.join(_FORMATS)} travel")
        is_array = type(value).__module__ == "numpy"
        inside, index = None, 0
        if view.nbytes <= INLINE_BUFFER:
            inside = view.tobytes()
        else:
            index = len(self.memfds)
            if index == MAX_BUFFERS:
                raise NotSendable(
                    f"{self.name}: more than {MAX_BUFFERS} buffers of over {INLINE_BUFFER} bytes"
                )
            self.memfds.append(self._memfd(value, view, what))
        return msgspec.msgpack.Ext(
            _BUFFER, _encode(_Buffer(view.format, view.shape or (), is_array, index, inside))
        )

    def _memfd(self, value: object, view: memoryview, what: str) -> int:
        shared = owner_of(value)
        if shared is None or len(shared) != view.nbytes or not view.c_contiguous:
            return memory.sealed(view if view.c_contiguous else view.tobytes())
        with descriptors_left():
            if self._writable:
                return os.dup(shared.descriptor)
            try:
                return memory.read_only(shared.descriptor)
            except FileNotFoundError:
                raise NotSendable(
                    f"{what}, and without /proc nobody could be kept from writing to it"
                ) from None


_KEYS: Final = "None, bool, int, float, str and bytes do"
_SENDABLE: Final = "None, bool, int, float, str, bytes, list, tuple, dict, datetime and buffers do"


def _name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _path(where: _Where) -> str:
    """``args[0]["x"]``."""
    keys: list[str] = []
    while isinstance(where, tuple):
        where, key = where
        keys.append(f"[{key!r}]" if not isinstance(key, str) else f'["{key[:80]}"]')
    shown = keys[::-1] if len(keys) <= 8 else [*keys[:-5:-1], "…"]
    return where + "".join(shown)


# ── on arrival ───────────────────────────────────────────────────────────────────────────────────────────────────


def unpack(body: bytes, buffers: Descriptors, *, trusted: bool = False) -> Any:
    """The value that :func:`pack` made ``body`` of. ``buffers`` are closed; what is mapped stays mapped.

    ``trusted``: a buffer may be one that its maker still writes to. Raises :class:`BadMessage`.
    """
    try:
        mapped = [_map(fd, trusted) for fd in buffers.borrow()]
    finally:
        buffers.close()
    decoder = msgspec.msgpack.Decoder(ext_hook=_extension(mapped)) if mapped else _decoder
    try:
        return decoded(decoder, body, "a value came that")
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise BadMessage(f"a value came that does not decode: {type(error).__name__}") from None


def _map(fd: int, trusted: bool) -> mmap.mmap:
    size = os.fstat(fd).st_size
    if not size:
        raise BadMessage("an empty buffer came in shared memory")
    return memory.map_shared(fd, size) if trusted else memory.map_sealed(fd, size)


def _extension(mapped: list[mmap.mmap]) -> Callable[[int, memoryview], Any]:
    def make(code: int, data: memoryview) -> Any:
        if code == _BIG_INT:
            return int.from_bytes(data, "little", signed=True)
        if code == _DATETIME:
            return datetime.datetime.fromisoformat(bytes(data).decode("ascii"))
        if code == _BUFFER:
            return _array(_buffer_decoder.decode(data), mapped)
        raise ValueError

    return make


def _array(buffer: _Buffer, mapped: list[mmap.mmap]) -> Any:
    if buffer.inside is None and buffer.index >= len(mapped):
        raise ValueError
    view = memoryview(mapped[buffer.index] if buffer.inside is None else buffer.inside).cast("B")
    element: Any = buffer.format  # the pattern says which there are
    if math.prod(buffer.shape) * memoryview(b"").cast(element).itemsize != view.nbytes:
        raise ValueError
    if buffer.is_array and (numpy := sys.modules.get("numpy")) is not None:
        return numpy.frombuffer(view, element).reshape(buffer.shape)
    if len(buffer.shape) == 1 or 0 in buffer.shape:
        return view.cast(element)
    return view.cast(element, buffer.shape)


_decoder: Final = msgspec.msgpack.Decoder(ext_hook=_extension([]))
