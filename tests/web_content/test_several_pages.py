"""One process, several pages of a site: each has its own channel, its own size and its own peers."""

from __future__ import annotations

import os
import time

import pytest

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.web_content import Options

from .window import Window, picture

RED, GREEN = (255, 0, 0, 255), (0, 255, 0, 255)


def test_two_pages_of_one_process_show_what_each_was_given(window: Window) -> None:
    other = window.another(Options(100, 50))
    window.show("<body style='margin:0;background:rgb(255,0,0)'><title>one</title>")
    shown = other.show("<body style='margin:0;background:rgb(0,255,0)'><title>two</title>")
    assert shown.title == "two"
    assert shown.document_width == 100
    assert window.pixel(1, 1) == RED
    assert other.pixel(1, 1) == GREEN
    other.leave()


def test_each_page_asks_its_own_request_server_and_its_own_decoders(window: Window) -> None:
    other = window.another(Options(200, 100))
    other.site["http://site.test/green.png"] = (200, "image/png", picture((0, 255, 0)))
    other.show("<body style='margin:0'><img src=green.png>")
    assert other.pixel(1, 1) == GREEN
    assert [fetch.url for fetch in other.asked] == ["http://site.test/green.png"]
    assert len(other.decoded) == 1
    assert window.asked == []
    assert window.decoded == []
    other.leave()


def test_the_first_page_leaves_and_the_second_goes_on(window: Window) -> None:
    other = window.another(Options(200, 100))
    window.show("<p>first")
    other.show("<body style='margin:0;background:rgb(0,255,0)'>")
    window.leave()
    assert other.pixel(1, 1) == GREEN
    assert other.show("<title>again</title>").title == "again"
    other.leave()


def test_a_page_that_left_has_given_its_memory_back(window: Window) -> None:
    other = window.another(Options(200, 100))
    window.show("<p>first")
    other.show("<!-- " + "x" * 24_000_000 + " -->")
    used = _anonymous(window.child.pid)
    other.leave()
    deadline = time.monotonic() + 20
    while _anonymous(window.child.pid) > used - 16_000_000:
        assert time.monotonic() < deadline, "it keeps what nobody looks at"
        time.sleep(0.02)
        window.text()


def test_a_page_without_a_document_does_not_see_its_neighbours(window: Window) -> None:
    window.show("<p>secret")
    other = window.another(Options(200, 100))
    with pytest.raises(RequestFailed) as caught:
        other.text()
    assert caught.value.code == FailureCode.NOT_LOADED
    other.leave()


def _anonymous(pid: int) -> int:
    """Bytes of memory that are a process's own."""
    with open(f"/proc/{pid}/statm") as file:
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * os.sysconf("SC_PAGESIZE")
