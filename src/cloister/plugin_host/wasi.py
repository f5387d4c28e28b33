"""What a module of WebAssembly gets of WASI (preview 1): enough for the libraries of C, Rust and Go to start and print.

There are no files, no arguments, no environment: those functions are there, and fail as on a machine without any.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from wasmtime import Caller, Memory

__all__ = ["MODULE", "Exit", "function", "memory_of", "read", "write"]

MODULE: Final = "wasi_snapshot_preview1"

_SUCCESS, _BADF, _INVAL, _NOSYS = 0, 8, 28, 52
_MOST_PARTS: Final = 1024  # of one write
_LOW: Final = 2**32 - 1
_MILLISECOND: Final = 10**6


class Exit(Exception):
    """The module called proc_exit()."""

    def __init__(self, code: int) -> None:
        super().__init__(f"proc_exit({code})")


def memory_of(caller: Caller) -> Memory:
    """The memory of the module that calls; ValueError if it exports none."""
    found = caller.get("memory")
    if not isinstance(found, Memory):
        raise ValueError("the module exports no memory")  # noqa: TRY004
    return found


def read(store: Any, memory: Memory, start: int, length: int) -> bytes:
    """Of a module's memory; ValueError for what is not in it. Numbers that came signed are meant unsigned."""
    start, length = start & _LOW, length & _LOW
    if start + length > memory.data_len(store):
        raise ValueError(f"{length} bytes at {start} are not in the module's memory")
    return bytes(memory.read(store, start, start + length)) if length else b""


def write(store: Any, memory: Memory, start: int, data: bytes) -> None:
    """The same, the other way."""
    start &= _LOW
    if start + len(data) > memory.data_len(store):
        raise ValueError(f"{len(data)} bytes at {start} are not in the module's memory")
    if data:
        memory.write(store, data, start)


def function(name: str) -> Callable[..., Any]:
    """What is called for ``name``: it gets the caller, then the function's own arguments."""
    return _FUNCTIONS.get(name, _no_descriptor if name.startswith("fd_") else _not_there)


def _fd_write(caller: Caller, fd: int, parts: int, count: int, written: int) -> int:
    if fd not in (1, 2):
        return _BADF
    if not 0 <= count <= _MOST_PARTS:
        return _INVAL
    memory = memory_of(caller)
    places = struct.iter_unpack("<II", read(caller, memory, parts, 8 * count))
    data = b"".join(read(caller, memory, start, length) for start, length in places)
    (sys.stdout if fd == 1 else sys.stderr).write(data.decode(errors="replace"))
    write(caller, memory, written, struct.pack("<I", len(data)))
    return _SUCCESS


def _random_get(caller: Caller, start: int, length: int) -> int:
    memory = memory_of(caller)
    write(caller, memory, start, os.urandom(len(read(caller, memory, start, length))))
    return _SUCCESS


def _clock_time_get(caller: Caller, clock: int, _precision: int, where: int) -> int:
    if clock not in (0, 1):  # of the day, and since some moment
        return _INVAL
    now = time.monotonic_ns() if clock else time.time_ns()
    write(caller, memory_of(caller), where, struct.pack("<Q", now))
    return _SUCCESS


def _clock_res_get(caller: Caller, _clock: int, where: int) -> int:
    write(caller, memory_of(caller), where, struct.pack("<Q", _MILLISECOND))
    return _SUCCESS


def _no_strings(caller: Caller, count: int, size: int) -> int:
    for where in (count, size):
        write(caller, memory_of(caller), where, bytes(4))
    return _SUCCESS


def _nothing(_caller: Caller, *_arguments: Any) -> int:
    return _SUCCESS


def _no_descriptor(_caller: Caller, *_arguments: Any) -> int:
    return _BADF


def _not_there(_caller: Caller, *_arguments: Any) -> int:
    return _NOSYS


def _proc_exit(_caller: Caller, code: int) -> None:
    raise Exit(code)


_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "fd_write": _fd_write,
    "random_get": _random_get,
    "clock_time_get": _clock_time_get,
    "clock_res_get": _clock_res_get,
    "args_sizes_get": _no_strings,
    "environ_sizes_get": _no_strings,
    "args_get": _nothing,
    "environ_get": _nothing,
    "sched_yield": _nothing,
    "proc_exit": _proc_exit,
}
