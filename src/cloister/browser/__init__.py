"""The privileged side: it starts processes, says what each may do, and never parses a foreign byte."""

import importlib
import logging
from typing import TYPE_CHECKING, Any

from .async_browser import AsyncBrowser
from .async_page import AsyncPage
from .context import AsyncBrowserContext
from .network import NetworkPolicy
from .proxy import ProxySettings
from .sync import Browser, BrowserContext, Page
from .values import Image, Link, Margin, ProcessInfo, Response, Viewport

if TYPE_CHECKING:
    from .downloads import Download, DownloadProgress
    from .requests import AsyncAPIRequestContext, AsyncAPIResponse
    from .sync_requests import APIRequestContext, APIResponse

__all__ = [
    "APIRequestContext",
    "APIResponse",
    "AsyncAPIRequestContext",
    "AsyncAPIResponse",
    "AsyncBrowser",
    "AsyncBrowserContext",
    "AsyncPage",
    "Browser",
    "BrowserContext",
    "Download",
    "DownloadProgress",
    "Image",
    "Link",
    "Margin",
    "NetworkPolicy",
    "Page",
    "ProcessInfo",
    "ProxySettings",
    "Response",
    "Viewport",
]

# What the loggers below "cloister" say goes nowhere until the program gives them a handler. A child has none, so
# that its last words reach standard error, and through it the browser's "cloister.child".
logging.getLogger("cloister").addHandler(logging.NullHandler())

# Imported when they are first used: a program that opens a page needs neither JSON nor hashes.
_LATER = {
    "APIRequestContext": "sync_requests",
    "APIResponse": "sync_requests",
    "AsyncAPIRequestContext": "requests",
    "AsyncAPIResponse": "requests",
    "Download": "downloads",
    "DownloadProgress": "downloads",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
