"""Memory that can be written and run, which ctypes makes for functions in Python that C is to call.

The handler of SIGSYS is such a function, and some libraries have others: a page each that whoever takes the process
over could write code of his own into, although no other memory ever becomes executable.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from pathlib import Path
from typing import Any, Final

from . import violation
from .kernel import libc

__all__ = ["look", "seal"]

_READ_EXEC: Final = 0x1 | 0x4
_SMALLEST: Final = 32
"""Bytes: a callback takes more."""

_Callback: Final = ctypes.CFUNCTYPE(None)
_found: set[tuple[int, int]] = set()
_kept: list[Any] = []
_sealed = False


def look() -> None:
    """Remember where there is such memory, while ``/proc`` is there to say so. Without that, the page of the handler of
    SIGSYS is found by its address."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    for place, rights in (line.split()[:2] for line in lines):
        if rights.startswith("rwx"):
            start, end = (int(each, 16) for each in place.split("-"))
            _found.add((start, end))


def seal() -> None:
    """From now on it can be run, and not written; there is no further callback: MemoryError. For this process, and all
    that it forks. Call it when no more memory can be made executable, and that which there is can still be changed.

    Raises:
        OSError: the kernel refused.
    """
    global _sealed  # noqa: PLW0603 - for the life of the process
    if _sealed:
        return
    _use_up()
    # Never freed, at the end of Python either: that writes.
    for each in (violation.handler, *_kept):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))
    pages = {_address(each) & -mmap.PAGESIZE for each in (violation.handler, *_kept)}
    for start, end in _found | {(page, page + mmap.PAGESIZE) for page in pages}:
        if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _READ_EXEC) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "mprotect of callbacks")
    _sealed = True


def _use_up() -> None:
    """Leave no room in the pages that there are: the next callback would be written there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # libffi would map a memfd twice, once to write and once to run.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        for _ in range(mmap.PAGESIZE // _SMALLEST):
            _kept.append(_Callback(_nothing))
    except MemoryError:
        return
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _address(callback: Any) -> int:
    return ctypes.cast(callback, ctypes.c_void_p).value or 0


def _nothing() -> None:
    return
