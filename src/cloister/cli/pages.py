"""The commands that open one page, or one image, and hand over what was asked of it."""

from __future__ import annotations

import json
import re
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cloister import Browser, NetworkPolicy, Page
from cloister.errors import CloisterError, printable

from . import output
from .progress import shown

__all__ = ["decode", "links", "pdf", "screenshot", "text"]

STDIN_LIMIT = 64 * 1024 * 1024  # bytes; as much as one response may have
# "mailto:x" and "https://x" have a scheme; in "localhost:8000" the colon comes before a port.
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?!\d+(?:[/?#]|$))")


class Remaining:
    """What is left of the time for the whole command, in milliseconds as the page's methods take it."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def __call__(self) -> float:
        return max(1.0, (self._end - time.monotonic()) * 1000)


def _policy(arguments: Namespace) -> NetworkPolicy:
    try:
        return NetworkPolicy(allow_hosts=arguments.allow_host)
    except ValueError as error:
        raise output.OutputError(f"--allow-host: {printable(str(error))}", 2) from error


def _open(page: Page, target: str, remaining: Remaining) -> None:
    """Load a URL, a file or standard input into ``page``."""
    if target == "-":
        document = sys.stdin.buffer.read(STDIN_LIMIT + 1)
        if len(document) > STDIN_LIMIT:
            raise CloisterError(f"standard input: more than {STDIN_LIMIT // 2**20} MiB")
        page.set_content(document, timeout=remaining())
    elif SCHEME.match(target):
        page.goto(target, timeout=remaining())
    elif Path(target).exists():
        page.open_file(target, timeout=remaining())
    elif target.startswith((".", "/", "~")):
        raise CloisterError("there is no such file")
    else:
        page.goto(f"https://{target}", timeout=remaining())


@contextmanager
def _opened(arguments: Namespace) -> Iterator[tuple[Page, Remaining]]:
    output.check(arguments.output, binary=arguments.binary)
    remaining = Remaining(arguments.timeout)
    with Browser(
        network=_policy(arguments),
        allow_degraded=arguments.allow_degraded,
        ca_certs=arguments.ca_cert,
        viewport=arguments.viewport,
    ) as browser:
        page = browser.new_page()
        with shown(page, arguments.target):
            _open(page, arguments.target, remaining)
        yield page, remaining


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
    with Browser(allow_degraded=arguments.allow_degraded) as browser:
        image = browser.decode_image(arguments.target)
    output.write(arguments.output, image.png())
    return 0
