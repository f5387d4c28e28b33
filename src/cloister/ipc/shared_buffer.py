"""Memory that is handed to another process without a copy."""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Self

from . import memory

__all__ = ["SharedBuffer", "owner_of"]


class SharedBuffer(mmap.mmap):
    """``size`` bytes, zero at first, that a plugin has where they are: to pass them takes no copy, however many.

    It is what ``mmap`` is, so ``numpy.frombuffer(shared, "f8")`` is an array in it, and to pass that array passes the
    buffer. Its maker may go on writing, and a plugin sees that; it cannot write itself, unless it was granted ``shm``.
    Then it may write at any time for as long as it lives: copy what is in here before you judge it. Nobody can change
    its size. It goes when nobody refers to it.

    Raises OutOfDescriptors.
    """

    descriptor: int

    def __new__(cls, size: int) -> Self:
        descriptor = memory.create_bitmap(size, "cloister-shared")
        try:
            self = super().__new__(cls, descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except BaseException:
            os.close(descriptor)
            raise
        self.descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)
        return self


def owner_of(value: object) -> SharedBuffer | None:
    """The buffer that ``value`` (an array, a memoryview) is in, if it is in one."""
    while (base := getattr(value, "base", None)) is not None:
        value = base
    if isinstance(value, memoryview):
        value = value.obj
    return value if isinstance(value, SharedBuffer) else None
