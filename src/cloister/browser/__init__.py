"""The privileged side: it starts processes, says what each may do, and never parses a foreign byte."""

import logging

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

# What is logged is for a program that has said where to: without this, Python prints warnings on standard error.
logging.getLogger("cloister").addHandler(logging.NullHandler())
