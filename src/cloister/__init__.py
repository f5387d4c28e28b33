"""Open what you don't trust.

Every page, every network response and every image is handled in an operating-system process of its own that
can do nothing but answer on its channel::

    from cloister import Browser

    with Browser() as browser:
        page = browser.new_page()
        page.goto("https://example.org/")
        page.screenshot("example.png")

The names below are imported when they are first used: a child process must not carry the browser in its memory.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .browser import (
        AsyncBrowser,
        AsyncPage,
        Browser,
        Image,
        Link,
        NetworkPolicy,
        Page,
        ProcessInfo,
        Response,
    )
    from .errors import (
        AddressRefused,
        BadMessage,
        BrowserClosed,
        CloisterError,
        ConnectionClosed,
        ImageError,
        InvalidArgument,
        LaunchError,
        NavigationError,
        PageClosed,
        PageCrashed,
        ProcessError,
        SandboxUnavailable,
        TimeoutError,
    )

__version__ = "0.1.0"

__all__ = [
    "AddressRefused",
    "AsyncBrowser",
    "AsyncPage",
    "BadMessage",
    "Browser",
    "BrowserClosed",
    "CloisterError",
    "ConnectionClosed",
    "Image",
    "ImageError",
    "InvalidArgument",
    "LaunchError",
    "Link",
    "NavigationError",
    "NetworkPolicy",
    "Page",
    "PageClosed",
    "PageCrashed",
    "ProcessError",
    "ProcessInfo",
    "Response",
    "SandboxUnavailable",
    "TimeoutError",
    "__version__",
]

_BROWSER = frozenset(
    {
        "AsyncBrowser",
        "AsyncPage",
        "Browser",
        "Image",
        "Link",
        "NetworkPolicy",
        "Page",
        "ProcessInfo",
        "Response",
    }
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cloister' has no attribute {name!r}")
    module = importlib.import_module("cloister.browser" if name in _BROWSER else "cloister.errors")
    return getattr(module, name)
