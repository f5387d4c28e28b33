"""The privileged side: it starts processes, says what each may do, and never parses a foreign byte."""

import logging

from .async_browser import AsyncBrowser
from .async_page import AsyncPage
from .context import AsyncBrowserContext
from .network import NetworkPolicy
from .proxy import ProxySettings
from .sync import Browser, BrowserContext, Page
from .values import Image, Link, Margin, ProcessInfo, Response, Viewport

__all__ = [
    "AsyncBrowser",
    "AsyncBrowserContext",
    "AsyncPage",
    "Browser",
    "BrowserContext",
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
