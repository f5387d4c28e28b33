"""What is left of a process that ended as it should not have, and what is not."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers import Server

from cloister import BadMessage, Browser, NetworkPolicy, PageCrashed, ends
from cloister.process.crashes import CrashReport, CrashStore


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])) as browser:
        yield browser


def reports(browser: Browser) -> list[CrashReport]:
    browser.close()  # waits for those that are being written
    return CrashStore().list()


def test_a_crash_leaves_a_report_with_the_stack_and_the_site_but_no_address(
    browser: Browser, site: Server
) -> None:
    page = browser.new_page()
    page.goto(site.url("/article?secret=1"))
    (pid,) = (process.pid for process in page.processes if process.kind == "web_content")
    os.kill(pid, signal.SIGSEGV)
    with pytest.raises(PageCrashed):
        page.text()
    (report,) = reports(browser)
    assert (report.kind, report.pid, report.signal) == ("web_content", pid, "SIGSEGV")
    assert report.site == site.url("").rstrip("/")
    assert report.trace.startswith("Fatal Python error: Segmentation fault")
    assert "secret" not in str(report)
    assert "seccomp" in report.layers
    assert ("sent", "Load") in report.messages
    assert ("received", "Loaded") in report.messages
    assert (report.usage.max_rss_bytes or 0) > 2**20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_somebody_ended_by_a_signal_is_not_taken_for_one_that_broke_out(
    browser: Browser, number: signal.Signals
) -> None:
    page = browser.new_page()
    page.set_content("x")
    (pid,) = (process.pid for process in page.processes if process.kind == "web_content")
    os.kill(pid, number)
    with pytest.raises(PageCrashed) as caught:
        page.text()
    assert caught.value.end == ends.Crashed(number)


def test_a_page_without_memory_says_so_and_so_does_its_report(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content("<p>Some words.</p>" * 10_000)
    (pid,) = (process.pid for process in page.processes)
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (1, 1))
    except PermissionError:
        pytest.skip("needs CAP_SYS_RESOURCE to lower another process's limit (prlimit(2))")
    with pytest.raises(PageCrashed, match="ran out of memory") as caught:
        page.content()
    assert isinstance(caught.value.end, ends.OutOfMemory)
    (report,) = reports(browser)
    assert report.end["type"] == "OutOfMemory"


def test_a_process_that_breaks_the_protocol_leaves_a_report(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content("x")
    renderer = page._page._renderer
    assert renderer is not None
    renderer.page._handlers.clear()  # then whatever it sends is not expected

    async def break_it() -> None:
        renderer.web_content.punish(BadMessage("a test says so"))

    browser._thread.run(break_it())
    with pytest.raises((PageCrashed, BadMessage), match="broke the protocol and was ended: a test says so"):
        page.text()
    (report,) = reports(browser)
    assert report.end == {"type": "BadMessage", "detail": "a test says so"}


def test_what_ends_in_order_leaves_nothing(browser: Browser, site: Server) -> None:
    page = browser.new_page()
    page.goto(site.url("/article"))
    page.close()
    assert reports(browser) == []


def test_a_zygote_that_dies_leaves_one_report_and_not_one_for_each_process(browser: Browser) -> None:
    for _ in range(3):
        browser.new_page().set_content("x")
    (pid, *_) = (process.pid for process in browser.processes() if process.kind == "zygote")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(PageCrashed):
        while True:
            browser.pages[0].text()
    (report,) = reports(browser)
    assert (report.kind, report.pid) == ("zygote", pid)


def test_a_folder_that_cannot_be_written_to_changes_nothing_for_the_page(
    browser: Browser, state: Path
) -> None:
    (state / "cloister").write_text("a file where a folder should be")
    page = browser.new_page()
    page.set_content("x")
    os.kill(page.processes[0].pid, signal.SIGSEGV)
    with pytest.raises(PageCrashed):
        page.text()
    page.reload()
    assert page.text().strip() == "x"


def test_a_program_may_do_without_reports(state: Path) -> None:
    with Browser(crash_reports=False) as browser:
        page = browser.new_page()
        page.set_content("x")
        os.kill(page.processes[0].pid, signal.SIGSEGV)
        with pytest.raises(PageCrashed):
            page.text()
    assert list(state.iterdir()) == []
