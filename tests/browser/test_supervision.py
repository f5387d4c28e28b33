"""What becomes of pages when processes hang, die and come back."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.servers import Server

from cloister import AsyncBrowser, Browser, CloisterError, NetworkPolicy, Page, PageCrashed, TimeoutError
from cloister.ends import Crashed, Killed
from cloister.errors import CircuitOpen
from cloister.interfaces.web_content import NewRequestServer
from cloister.ipc import Descriptors
from cloister.process import ChildProcess, supervisor
from cloister.process.keep import Breaker
from cloister.process.supervisor import HealthEvent

from .conftest import pixels

RED = '<body style="margin:0;background:rgb(255,0,0)">'
GREEN = '<body style="margin:0;background:rgb(0,255,0)">'


@pytest.fixture
def browser() -> Iterator[Browser]:
    network = NetworkPolicy(allow_hosts=["127.0.0.1", "localhost"], request_timeout=5)
    with Browser(network=network, viewport={"width": 200, "height": 100}) as browser:
        yield browser


def pid_of(page: Page, kind: str = "web_content") -> int:
    (pid,) = (process.pid for process in page.processes if process.kind == kind)
    return pid


def standing(browser: Browser, kind: str) -> list[int]:
    return [process.pid for process in browser.processes() if process.kind == kind]


def standing_when_there(browser: Browser, kind: str) -> list[int]:
    eventually(lambda: standing(browser, kind))
    return standing(browser, kind)


def eventually(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


class Heard:
    """The health events, as they come."""

    def __init__(self) -> None:
        self.events: list[HealthEvent] = []
        self.came = threading.Event()

    def __call__(self, event: HealthEvent) -> None:
        self.events.append(event)
        self.came.set()

    def next(self) -> HealthEvent:
        assert self.came.wait(20)
        self.came.clear()
        return self.events[-1]


# ── hanging ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_stopped_page_is_unresponsive_until_it_goes_on_and_delays_no_other(browser: Browser) -> None:
    page, other = browser.new_page(), browser.new_page()
    heard, of_page, of_other = Heard(), Heard(), Heard()
    browser.on("health", heard)
    page.on("unresponsive", of_page)
    page.on("responsive", of_page)
    other.on("unresponsive", of_other)
    page.set_content(RED)
    other.set_content(GREEN)
    pid = pid_of(page)
    os.kill(pid, signal.SIGSTOP)
    event = of_page.next()
    assert (event.state, event.kind, event.pid, event.kills_in) == ("unresponsive", "web_content", pid, None)
    assert pixels(other.screenshot()).getpixel((1, 1)) == (0, 255, 0)
    os.kill(pid, signal.SIGCONT)
    assert of_page.next().state == "responsive"
    assert pixels(page.screenshot()).getpixel((1, 1)) == (255, 0, 0)
    assert of_other.events == []
    assert [event.state for event in heard.events] == ["unresponsive", "responsive"]


def test_who_is_told_that_a_page_hangs_may_end_it(browser: Browser) -> None:
    page = browser.new_page()
    page.on("unresponsive", lambda event: event.kill())
    page.set_content(RED)
    os.kill(pid_of(page), signal.SIGSTOP)
    with pytest.raises(PageCrashed, match="did not answer for .* and was ended on request") as caught:
        page.text()
    assert isinstance(caught.value.end, Killed)


def test_an_action_on_a_page_that_hangs_ends_at_its_deadline(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content(RED)
    pid = pid_of(page)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError, match="not done within 200 ms"):
        page.text(timeout=200)
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    page.reload()
    assert pixels(page.screenshot()).getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["lookup_server", "zygote"])
def test_a_server_that_hangs_is_ended_and_comes_back(
    browser: Browser, site: Server, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(supervisor.GRACE, kind, 1.5)
    heard = Heard()
    browser.on("health", heard)
    page = browser.new_page()
    page.goto(site.url("/article"))
    eventually(lambda: standing(browser, kind))
    (pid, *_) = standing(browser, kind)
    os.kill(pid, signal.SIGSTOP)
    event = heard.next()
    assert (event.state, event.kind, event.pid) == ("unresponsive", kind, pid)
    assert event.kills_in is not None
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    again(lambda: browser.new_page().goto(site.url("/article")))
    assert pid not in standing(browser, kind)


def test_a_server_that_hangs_is_left_alone_when_the_program_says_so(
    browser: Browser, site: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(supervisor.GRACE, "lookup_server", 1.2)
    heard = Heard()
    browser.on("health", heard)
    browser.new_page().goto(site.url("/article"))
    (pid,) = standing(browser, "lookup_server")
    os.kill(pid, signal.SIGSTOP)
    heard.next().wait()
    time.sleep(1.5)  # longer than it would have had
    os.kill(pid, signal.SIGCONT)
    assert heard.next().state == "responsive"
    assert standing(browser, "lookup_server") == [pid]


# ── dying ────────────────────────────────────────────────────────────────────────────────────────────────────


def again(act: Callable[[], object]) -> None:
    """Do it until it does not fail as something that may be tried again."""
    deadline = time.monotonic() + 20
    while True:
        try:
            act()
        except CloisterError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
        else:
            return


def test_after_the_zygotes_death_pages_say_so_and_reload_under_a_new_one(
    browser: Browser, site: Server
) -> None:
    page = browser.new_page()
    page.goto(site.url("/article"))
    (zygote, *_) = standing(browser, "zygote")
    os.kill(zygote, signal.SIGKILL)
    eventually(lambda: not page.processes)
    with pytest.raises(PageCrashed, match="the zygote ended") as caught:
        page.text()
    assert caught.value.retriable
    again(page.reload)
    assert page.text()
    assert zygote not in standing(browser, "zygote")
    eventually(lambda: len(standing(browser, "zygote")) == 5)
    assert browser.decode_image(page.screenshot()).width == 200


@pytest.mark.parametrize("number", range(1, 5))
def test_the_death_of_a_branch_is_as_the_zygotes(browser: Browser, number: int) -> None:
    page = browser.new_page()
    page.set_content(RED)
    eventually(lambda: len(standing(browser, "zygote")) == 5)
    os.kill(standing(browser, "zygote")[number], signal.SIGKILL)
    eventually(lambda: not page.processes)
    with pytest.raises(PageCrashed, match="the zygote ended"):
        page.text()
    again(page.reload)


def test_a_lookup_server_that_dies_comes_back_and_the_page_stays(browser: Browser, site: Server) -> None:
    page = browser.new_page()
    page.goto(site.url("/article"))
    pid = pid_of(page)
    (lookup,) = standing(browser, "lookup_server")
    os.kill(lookup, signal.SIGKILL)
    eventually(lambda: standing(browser, "lookup_server") not in ([], [lookup]))
    assert pid_of(page) == pid
    assert page.text()
    again(lambda: browser.new_page().goto(site.url("/article")))


def test_a_request_server_that_was_on_its_way_when_the_lookup_server_died_is_replaced(
    browser: Browser, site: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = browser._browser._processes
    assert processes is not None
    fork, (lookup,) = processes.fork, standing_when_there(browser, "lookup_server")
    late: list[int] = []

    async def slowly(kind: str, *given: Any, **named: Any) -> ChildProcess:
        child = await fork(kind, *given, **named)
        if kind == "request_server" and not late:
            late.append(child.pid)
            os.kill(lookup, signal.SIGKILL)
            while lookup in {each.pid for each in processes.standing()}:
                await asyncio.sleep(0.001)
        return child

    monkeypatch.setattr(processes, "fork", slowly)
    page = browser.new_page()
    assert page.goto(site.url("/article")).ok
    assert late != [pid_of(page, "request_server")]


def test_what_keeps_dying_is_not_started_for_ever(
    browser: Browser, site: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaker, "FIRST", 0.001)
    browser.new_page().goto(site.url("/article"))
    seen: set[int] = set()
    for _ in range(Breaker.MOST):
        eventually(lambda: set(standing(browser, "lookup_server")) - seen)
        (pid,) = standing(browser, "lookup_server")
        seen.add(pid)
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not standing(browser, "lookup_server"))
    with pytest.raises(
        CircuitOpen, match=r"lookup_server ended 6 times within 60 s.*`cloister crashes list`"
    ):
        again(lambda: browser.new_page().goto(site.url("/article")))
    page = browser.new_page()
    page.set_content(RED)
    assert pixels(page.screenshot()).getpixel((1, 1)) == (255, 0, 0)  # what needs no network goes on


def test_the_crash_of_a_page_is_raised_once_and_then_shown(browser: Browser) -> None:
    crashes: list[object] = []
    page = browser.new_page()
    page.on("crash", crashes.append)
    page.set_content(RED)
    os.kill(pid_of(page), signal.SIGSEGV)
    eventually(lambda: crashes)
    assert crashes == [page]
    with pytest.raises(PageCrashed, match="SIGSEGV") as caught:
        page.screenshot()
    assert caught.value.end == Crashed(signal.SIGSEGV)
    shown = pixels(page.screenshot())
    assert shown.size == (200, 100)
    assert shown.getpixel((1, 1)) == (0xF4, 0xF1, 0xEA)
    with pytest.raises(PageCrashed):
        page.text()
    page.reload()
    assert pixels(page.screenshot()).getpixel((1, 1)) == (255, 0, 0)


# ── history ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_page_goes_back_and_forward_also_after_a_crash(browser: Browser, site: Server) -> None:
    page = browser.new_page()
    assert page.go_back() is None
    page.set_content("one")
    page.set_content("two")
    page.goto(site.url("/article"))
    os.kill(pid_of(page), signal.SIGKILL)
    assert page.go_back() is not None
    assert page.text().strip() == "two"
    page.go_back()
    assert page.text().strip() == "one"
    assert page.go_back() is None
    page.go_forward()
    assert page.text().strip() == "two"
    page.set_content("three")
    assert page.go_forward() is None  # a new way was taken
    page.go_back()
    assert page.text().strip() == "two"


def test_what_was_forked_just_before_its_page_closed_is_let_go_of_as_well() -> None:
    """Its watcher is cancelled before it has taken its first step."""

    async def go() -> None:
        async with AsyncBrowser() as browser:
            page = await browser.new_page()
            await page.set_content("<p>x")
            renderer = page._renderer
            assert renderer is not None
            _, fds = await renderer._new_request_server(NewRequestServer(), Descriptors())
            child = renderer._request_server
            assert child is not None
            await renderer.close()
            for fd in fds:
                os.close(fd)
            assert child.has_ended
            assert not child._finalizer.alive, "its descriptors stay open"

    asyncio.run(go())
