"""The commands. What a command needs is imported when it runs: most of them are over in a third of a second."""

from .command import main

__all__ = ["main"]
