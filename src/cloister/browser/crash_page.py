"""What a page shows in its picture after its process has ended: our own words, drawn by a fresh process."""

from __future__ import annotations

from ..ends import End
from ..errors import printable

__all__ = ["crash_page"]

_STYLE = (
    "body{margin:0;padding:12% 8%;font:16px/1.5 sans-serif;background:#f4f1ea;color:#2b2b2b}"
    "h1{font-size:26px;margin:0 0 12px}p{margin:0 0 10px}code{font:14px monospace;overflow-wrap:anywhere}"
)


def crash_page(url: str, end: End) -> bytes:
    """An HTML document that says that the page at ``url`` has crashed, and how."""
    import html  # with every name of a character: for few pages only

    return (
        f"<!DOCTYPE html><meta charset=utf-8><title>This page crashed</title><style>{_STYLE}</style>"
        f"<h1>This page crashed</h1><p><code>{html.escape(printable(url, 300))}</code></p>"
        f"<p>Its process {html.escape(printable(str(end), 300))}.</p>"
        "<p>Other pages go on. Reload it to open it in a new process.</p>"
    ).encode()
