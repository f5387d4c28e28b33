"""What a process started, and what that started."""

from __future__ import annotations

import contextlib
from pathlib import Path

__all__ = ["descendants"]


def descendants(root: int) -> set[int]:
    """The pids of all that live."""
    found: set[int] = set()
    todo = [root]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ends meanwhile
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                children = {int(child) for child in task.read_text().split()} - found
                found |= children
                todo += children
    return found
