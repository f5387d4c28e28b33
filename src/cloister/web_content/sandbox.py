"""What a page's process may do: think, answer on its channels, read fonts."""

from __future__ import annotations

from ..sandbox import Policy
from . import fonts

__all__ = ["POLICY"]

POLICY = Policy(
    kind="web_content",
    groups=("stdio", "memory", "large_memory", "ipc", "event_loop", "read_files"),
    read_paths=fonts.folders(),  # files of fonts are opened when a page first uses them
)
