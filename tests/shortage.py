"""A process that has used up what it may have."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

import pytest

__all__ = ["only"]


@contextlib.contextmanager
def only(left: int) -> Iterator[None]:
    """Inside, this program can open ``left`` more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    held: list[int] = []
    with pytest.raises(OSError, match="Too many open files"):
        while True:
            held.append(os.dup(2))
    for _ in range(left):
        os.close(held.pop())
    try:
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
