"""The browser and the page beside that must not notice, as the faults have them."""

from __future__ import annotations

from tests.faults.conftest import folders, hurried, patch, server, world

__all__ = ["folders", "hurried", "patch", "server", "world"]
