"""The privileged side: it starts processes, says what each may do, and never parses a foreign byte."""

from .async_browser import AsyncBrowser
from .async_page import AsyncPage
from .network import NetworkPolicy
from .sync import Browser, Page
from .values import Image, Link, Margin, ProcessInfo, Response, Viewport

__all__ = [
    "AsyncBrowser",
    "AsyncPage",
    "Browser",
    "Image",
    "Link",
    "Margin",
    "NetworkPolicy",
    "Page",
    "ProcessInfo",
    "Response",
    "Viewport",
]
