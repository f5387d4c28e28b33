"""Pages that take too much, alone and all together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.servers import Server

from cloister import AsyncBrowser, Browser, InvalidArgument, NetworkPolicy, Page, PageCrashed, TimeoutError
from cloister.browser import async_browser
from cloister.browser.memory import default_budget
from cloister.browser.png import encode_rgba
from cloister.ends import OutOfMemory
from cloister.process.size import size
from cloister.process.usage import pss, resident

LARGE = "<p>Some words of a paragraph.</p>" * 30_000


def eventually(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser(viewport={"width": 200, "height": 100}) as browser:
        yield browser


def three_pages(browser: Browser) -> list[Page]:
    pages = [browser.new_page() for _ in range(3)]
    for number, page in enumerate(pages):
        page.set_content(f"<title>{number}</title>page {number}")
    return pages


def set_budget(browser: Browser, count: int) -> None:
    keeper = browser._browser._memory
    assert keeper is not None
    keeper._budget = count


def test_a_page_over_its_limit_ends_and_the_others_do_not() -> None:
    with Browser(max_page_memory="60 MiB") as browser:
        small, large = browser.new_page(), browser.new_page()
        small.set_content("small")
        with pytest.raises(PageCrashed, match=r"ran out of memory: .* a page may .* 60 MiB") as caught:
            large.set_content(LARGE)
            while True:
                large.title()
                large.text()
        assert isinstance(caught.value.end, OutOfMemory)
        assert small.text().strip() == "small"


def test_over_the_budget_the_page_used_longest_ago_is_discarded_first_and_loads_again_when_used(
    browser: Browser,
) -> None:
    pages = three_pages(browser)
    pages[0].text()  # now the second is the one used longest ago
    time.sleep(2.5)  # then they rest, and take no less any more
    pids = [process.pid for process in browser.processes()]
    set_budget(browser, sum(pss(pid) or resident(pid) or 0 for pid in pids) - 2**20)
    eventually(lambda: any(page.is_discarded for page in pages))
    assert [page.is_discarded for page in pages] == [False, True, False]
    assert pages[1].processes == []
    assert pages[1].title() == "1"
    assert pages[1].is_discarded  # what is known without its processes needs none
    set_budget(browser, 2**40)
    assert pages[1].text().strip() == "page 1"
    assert not pages[1].is_discarded
    assert pages[1].processes != []


def test_near_the_budget_pages_of_one_origin_share_a_process(site: Server) -> None:
    with Browser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])) as browser:
        context = browser.new_context()
        pages = [context.new_page() for _ in range(3)]
        pages[0].goto(site.url("/article"))
        pages[1].goto(site.url("/article"))
        assert pages[0].processes[0].pid != pages[1].processes[0].pid
        used = sum(pss(process.pid) or resident(process.pid) or 0 for process in browser.processes())
        set_budget(browser, round(used * 1.15))
        eventually(lambda: browser._browser._share_sites)
        pages[2].goto(site.url("/article"))
        assert pages[2].processes[0].pid in {page.processes[0].pid for page in pages[:2]}
        set_budget(browser, 2**40)
        eventually(lambda: not browser._browser._share_sites)


def test_when_nothing_is_left_to_discard_new_pages_wait_until_there_is_memory(browser: Browser) -> None:
    pages = three_pages(browser)
    set_budget(browser, 1)
    eventually(lambda: all(page.is_discarded for page in pages))
    eventually(lambda: browser._browser._room.shut)
    new = browser.new_page()
    with pytest.raises(
        TimeoutError, match=r"no process within 300 ms: all pages together take .*memory_budget"
    ):
        new.set_content("x", timeout=300)
    set_budget(browser, 2**40)
    new.set_content("x")
    assert new.text().strip() == "x"
    assert pages[2].text().strip() == "page 2"


def test_a_page_that_is_in_use_is_not_discarded(browser: Browser) -> None:
    page = browser.new_page()
    assert not page.discard()  # nothing is loaded
    page.set_content("x")
    assert page.discard()
    assert not page.discard()
    assert page.reload().ok
    page.close()
    assert not page.discard()


def test_a_page_goes_back_from_where_it_was_discarded(browser: Browser) -> None:
    page = browser.new_page()
    page.set_content("one")
    page.set_content("two")
    page.discard()
    page.go_back()
    assert page.text().strip() == "one"
    page.discard()
    page.go_forward()
    assert page.text().strip() == "two"


def test_only_so_many_pages_live_at_once_and_the_next_ones_come_in_order() -> None:
    with Browser(max_live_pages=2) as browser:
        first, second, third = (browser.new_page() for _ in range(3))
        first.set_content("1")
        second.set_content("2")
        with pytest.raises(TimeoutError, match="2 pages are live, which is the limit"):
            third.set_content("3", timeout=200)
        first.close()
        third.set_content("3")
        with pytest.raises(TimeoutError):
            browser.new_page().set_content("4", timeout=200)
        second.set_content("a page that lives already goes on")


def test_only_so_many_images_are_decoded_at_once_and_all_of_them_are_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(async_browser, "MAX_DECODERS", 3)
    data = encode_rgba(8, 8, bytes(8 * 8 * 4))
    at_work, most = 0, 0

    async def go() -> None:
        async with AsyncBrowser() as browser:
            alone = browser._decode_alone

            async def counted(source: Any) -> Any:
                nonlocal at_work, most
                at_work += 1
                most = max(most, at_work)
                try:
                    return await alone(source)
                finally:
                    at_work -= 1

            monkeypatch.setattr(browser, "_decode_alone", counted)
            images = await asyncio.gather(*(browser.decode_image(data) for _ in range(12)))
            assert [image.width for image in images] == [8] * 12

    asyncio.run(go())
    assert most == 3


def test_a_page_may_have_its_share_of_the_processor_and_no_more() -> None:
    with Browser(max_cpu_percent=50) as browser:
        page = browser.new_page()
        page.set_content(LARGE)
        assert page.text().startswith("Some words")
        page.close()


@pytest.mark.parametrize(
    ("text", "count"),
    [(5, 5), ("5", 5), ("1 KiB", 1024), ("1.5MiB", 1_572_864), ("2 gb", 2 * 10**9), ("64 B", 64)],
)
def test_sizes_are_bytes_or_text_with_a_unit(text: int | str, count: int) -> None:
    assert size("it", text) == count


@pytest.mark.parametrize("text", [0, -1, "", "many", "1 XB", "-5", "1e9", "1 GiB more", "99999999999999"])
def test_what_is_no_size_is_refused_by_its_name(text: int | str) -> None:
    with pytest.raises(InvalidArgument, match="it: .* is no size"):
        size("it", text)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="max_cpu_percent"):
        Browser(max_cpu_percent=0)
    with pytest.raises(InvalidArgument, match="max_live_pages"):
        Browser(max_live_pages=0)


def test_the_budget_is_part_of_what_there_is() -> None:
    assert 2**26 < default_budget() < 2**50


def test_the_pressure_on_the_machines_memory_is_not_watched_by_a_program_that_is_soon_over(
    browser: Browser,
) -> None:
    keeper = browser._browser._memory
    assert keeper is not None
    assert keeper._pressure is None
    eventually(lambda: keeper._pressure is not None)
