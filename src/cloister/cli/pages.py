"""The commands that open one page, or one image, and hand over what was asked of it."""

from __future__ import annotations

import re
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from cloister import AsyncBrowser, Browser, NetworkPolicy, Page
from cloister.errors import CloisterError

from . import output
from .failure import USAGE, CommandError
from .progress import shown

__all__ = ["SCHEME", "BrowserOfPages", "browser", "decode", "links", "pdf", "screenshot", "text"]

STDIN_LIMIT = 64 * 1024 * 1024  # bytes; as much as one response may have
# "mailto:x" and "https://x" have a scheme; in "localhost:8000" the colon comes before a port.
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!\d+(?:[/?#]|$))")

Opening = Callable[[Page, float], object]


class Remaining:
    """What is left of the time for the whole command, in milliseconds as the page's methods take it."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def __call__(self) -> float:
        return max(1.0, (self._end - time.monotonic()) * 1000)


class _AsyncBrowserOfPages(AsyncBrowser):
    pages_only = True


class BrowserOfPages(Browser):
    """For commands that ask for pages and images and nothing else: it starts sooner, and __main__ tells its zygote."""

    _made_of = _AsyncBrowserOfPages


def browser(arguments: Namespace, kind: type[Browser] = Browser) -> Browser:
    """One with what the command line says. Raises CommandError."""
    try:
        return kind(
            network=NetworkPolicy(allow_hosts=arguments.allow_host, dns_servers=arguments.dns_server),
            proxy=arguments.proxy,
            allow_degraded=arguments.allow_degraded,
            ca_certs=arguments.ca_cert,
            viewport=arguments.viewport,
            trace_ipc=arguments.trace_ipc,
            trace_payload=arguments.trace_payload,
        )
    except ValueError as error:  # InvalidArgument is one, too
        raise CommandError(str(error), USAGE) from error


def _opening(target: str) -> Opening:
    """How to load a URL, a file or standard input; what cannot be had is refused before any process is started."""
    if target == "-":
        document = sys.stdin.buffer.read(STDIN_LIMIT + 1)
        if len(document) > STDIN_LIMIT:
            raise CloisterError(f"standard input: more than {STDIN_LIMIT // 2**20} MiB")
        return lambda page, timeout: page.set_content(document, timeout=timeout)
    if SCHEME.match(target):
        return lambda page, timeout: page.goto(target, timeout=timeout)
    if Path(target).exists():
        return lambda page, timeout: page.open_file(target, timeout=timeout)
    if target.startswith((".", "/", "~")):
        raise CloisterError("there is no such file")
    return lambda page, timeout: page.goto(f"https://{target}", timeout=timeout)


@contextmanager
def _opened(arguments: Namespace) -> Iterator[tuple[Page, Remaining]]:
    output.check(arguments.output, binary=arguments.binary)
    opening = _opening(arguments.target)
    remaining = Remaining(arguments.timeout)
    with browser(arguments, BrowserOfPages) as opened:
        page = _page(opened, arguments.cookies)
        with nullcontext() if arguments.verbose else shown(page, arguments.target):
            opening(page, remaining())
        yield page, remaining
        if arguments.save_cookies is not None:
            page.context.storage_state(arguments.save_cookies)


def _page(browser: Browser, cookies: Path | None) -> Page:
    try:
        return browser.new_page(storage_state=cookies)
    except ValueError as error:
        raise CommandError(str(error), USAGE) from error


def _deliver(arguments: Namespace, ask: Callable[[Page, Remaining], bytes]) -> int:
    """Open the page, ask it, write the answer once every process has ended."""
    with _opened(arguments) as (page, remaining):
        data = ask(page, remaining)
    output.write(arguments.output, data)
    return 0


def screenshot(arguments: Namespace) -> int:
    """``cloister screenshot``."""
    return _deliver(
        arguments, lambda page, remaining: page.screenshot(full_page=arguments.full_page, timeout=remaining())
    )


def pdf(arguments: Namespace) -> int:
    """``cloister pdf``."""
    return _deliver(arguments, lambda page, remaining: page.pdf(timeout=remaining()))


def text(arguments: Namespace) -> int:
    """``cloister text``."""

    def ask(page: Page, remaining: Remaining) -> bytes:
        methods = {"text": page.text, "markdown": page.markdown, "html": page.content}
        said = methods[arguments.format](timeout=remaining())
        return (said if said.endswith("\n") else said + "\n").encode()

    return _deliver(arguments, ask)


def links(arguments: Namespace) -> int:
    """``cloister links``."""

    def ask(page: Page, remaining: Remaining) -> bytes:
        found = page.links(timeout=remaining())
        if arguments.json:
            import json

            lines = json.dumps(
                [{"url": link.url, "text": link.text} for link in found], ensure_ascii=False, indent=2
            )
            return f"{lines}\n".encode()
        return "".join(f"{link.url}\t{' '.join(link.text.split())}\n" for link in found).encode()

    return _deliver(arguments, ask)


def decode(arguments: Namespace) -> int:
    """``cloister decode``."""
    output.check(arguments.output, binary=True)
    if not Path(arguments.target).is_file():
        raise CloisterError("there is no such file")
    with browser(arguments, BrowserOfPages) as opened:
        image = opened.decode_image(arguments.target)
    output.write(arguments.output, image.png())
    return 0
