"""In which order a page asks for what it refers to, and does its own work."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from cloister.web_content.css import Use
from cloister.web_content.references import Found
from cloister.web_content.resources import Resources
from cloister.web_content.subresources import PARALLEL, fetch_all

URLS = [f"http://site.test/{number}.png" for number in range(PARALLEL)]


class Slow:
    """Resources whose server takes its time; ``done`` is what happened, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.referrers: dict[str, Any] = {}
        self.uses: dict[str, Use] = {}

    async def fetch(self, url: str, _use: Use, _found: Found) -> None:
        self.done.append("asked")
        await asyncio.sleep(0.01)
        self.done.append("answered")

    async def decode(self, _url: str) -> None: ...


def fetch(resources: Slow, work: Any) -> None:
    found = Found()
    found.images.update(dict.fromkeys(URLS))
    asyncio.run(fetch_all(found, cast(Resources, resources), lambda _done, _total: None, work))


def test_a_page_does_its_own_work_while_it_waits_for_what_it_has_asked_for() -> None:
    resources = Slow()
    fetch(resources, lambda: resources.done.append("worked"))
    assert resources.done == ["asked"] * PARALLEL + ["worked"] + ["answered"] * PARALLEL


def test_where_that_work_fails_so_does_the_page_and_nothing_goes_on() -> None:
    resources = Slow()

    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fetch(resources, fails)
    assert "answered" not in resources.done
