"""How far a page's load is, on standard error, when somebody is there to see it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cloister import Page
from cloister.errors import printable

__all__ = ["shown"]


@contextmanager
def shown(page: Page, target: str) -> Iterator[None]:
    """Show ``page``'s progress until the block ends; nothing of it stays on the screen."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    name = "standard input" if target == "-" else printable(target, 60)
    with Console(stderr=True).status("") as status:

        def tell(done: int, total: int) -> None:
            counted = f" · {done} of {total}" if total else ""
            status.update(status=Text(f"{name}{counted}"))  # not markup: an address may hold [brackets]

        tell(0, 0)
        page.on("progress", tell)
        yield
