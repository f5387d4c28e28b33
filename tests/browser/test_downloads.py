"""Files from real servers: whole ones, broken ones that go on, and servers that lie about what they send."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import resource
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Handler, Page, Request, Server, compress, redirect

from cloister import AddressRefused, Browser, InvalidArgument, NetworkPolicy, TimeoutError
from cloister.browser import downloads
from cloister.browser.downloads import DownloadProgress
from cloister.errors import DownloadFailed

DATA = b"".join(
    number.to_bytes(4, "big") for number in range(200_000)
)  # 800 KB; no two pieces of it are alike
ETAG = '"v1"'


class Files:
    """A server's file, sent as a test says: ``breaks_at`` is after how many bytes each answer ends, in turn."""

    def __init__(
        self, data: bytes = DATA, *breaks_at: int, etag: str = ETAG, headers: Mapping[str, str] | None = None
    ) -> None:
        self.data = data
        self.etag = etag
        self.headers = dict(headers or {})
        self.breaks_at = list(breaks_at)
        self.asked: list[str | None] = []
        self.if_range: list[str | None] = []
        self.lie: Callable[[int], str] = lambda first: f"bytes {first}-{len(self.data) - 1}/{len(self.data)}"

    async def __call__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        asked, condition = request.headers.get("range"), request.headers.get("if-range")
        self.asked.append(asked)
        self.if_range.append(condition)
        is_part = asked and condition == (self.etag or self.headers.get("Last-Modified"))
        first = int(asked[len("bytes=") : -1]) if asked and is_part else 0
        fields = {"ETag": self.etag, "Content-Length": str(len(self.data) - first), **self.headers}
        if not self.etag:
            del fields["ETag"]
        status = 200
        if is_part:
            status = 206
            fields["Content-Range"] = self.lie(first)
        if first >= len(self.data):
            status = 416
            fields |= {"Content-Range": f"bytes */{len(self.data)}", "Content-Length": "0"}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        body = self.data[first:]
        if self.breaks_at:
            body = body[: self.breaks_at.pop(0)]
        writer.write(f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body)
        await writer.drain()


async def endless(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


@pytest.fixture(scope="module")
def routes() -> dict[str, Page | Handler]:
    return {}


@pytest.fixture(scope="module")
def server(routes: dict[str, Page | Handler]) -> Iterator[Server]:
    with Server(routes) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    network = NetworkPolicy(allow_hosts=["127.0.0.1", "localhost"], request_timeout=5)
    with Browser(network=network) as browser:
        yield browser


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "DELAY", 0.01)


Serve = Callable[[str, Page | Handler], str]


@pytest.fixture
def serve(server: Server, routes: dict[str, Page | Handler]) -> Serve:
    def put(path: str, what: Page | Handler) -> str:
        routes[path] = what
        return server.url(path)

    return put


def failing(browser: Browser, url: str, path: Path, **options: Any) -> DownloadFailed:
    with pytest.raises(DownloadFailed) as caught:
        browser.download(url, path, **options)
    return caught.value


# ── what becomes of a file ───────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_saved_as_the_server_calls_it_and_nobody_may_execute_it(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    named = "attachment; filename=\"../x\"; filename*=UTF-8''na%C3%AFve%20file.bin"
    headers = {"Content-Disposition": named, "Content-Type": "application/x-thing"}
    url = serve("/named", Files(headers=headers))
    told: list[DownloadProgress] = []
    digest = hashlib.sha256(DATA).hexdigest()
    done = browser.download(url, tmp_path, progress=told.append, sha256=digest.upper())
    assert done.path == tmp_path / "naïve file.bin"
    assert done.path.read_bytes() == DATA
    assert (done.size, done.content_type, done.sha256) == (len(DATA), "application/x-thing", digest)
    assert os.listdir(tmp_path) == ["naïve file.bin"]
    mode = stat.S_IMODE(done.path.stat().st_mode)
    umask = os.umask(0o022)
    os.umask(umask)
    assert mode == 0o644 & ~umask
    assert (told[-1].received, told[-1].total) == (len(DATA), len(DATA))
    assert [progress.received for progress in told] == sorted(progress.received for progress in told)
    assert told[0].part.name.endswith(".part")


def test_where_it_is_from_is_kept_with_it(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    url = serve("/origin", Files())
    path = browser.download(
        serve("/moved", redirect(url)), tmp_path, headers={"Referer": "http://a.example/"}
    ).path
    if not os.listxattr(path):
        pytest.skip("this file system has no extended attributes")
    assert os.getxattr(path, "user.xdg.origin.url") == url.encode()
    assert os.getxattr(path, "user.xdg.referrer.url") == b"http://a.example/"
    assert len(os.listxattr(path)) == 2


def test_nothing_is_overwritten_and_no_link_is_followed(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    url = serve("/report.pdf", Page(b"new"))
    outside = tmp_path / "outside"
    outside.write_bytes(b"old")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "report.pdf").symlink_to(outside)
    (folder / "report (1).pdf").symlink_to(folder / "nowhere")
    assert browser.download(url, folder).path == folder / "report (2).pdf"
    assert browser.download(url, f"{folder}/").path == folder / "report (3).pdf"
    assert outside.read_bytes() == b"old"
    assert not (folder / "nowhere").exists()
    for taken in (outside, folder / "report.pdf", folder / "report (1).pdf"):
        error = failing(browser, url, taken)
        assert error.code == "file_exists"
        assert str(taken) in str(error)
    assert outside.read_bytes() == b"old"


def test_a_link_in_the_way_of_the_part_is_not_followed(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    url = serve("/part", Page(b"new"))
    told: list[DownloadProgress] = []
    browser.download(url, tmp_path / "one", progress=told.append)
    outside = tmp_path / "outside"
    outside.write_bytes(b"old")
    (tmp_path / told[-1].part.name.replace("one", "two")).symlink_to(outside)
    assert browser.download(url, tmp_path / "two").path.read_bytes() == b"new"
    assert outside.read_bytes() == b"old"


def test_two_downloads_of_one_name_at_once_are_two_files(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    url = serve("/twice.bin", Files())
    threads = [threading.Thread(target=browser.download, args=(url, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(os.listdir(tmp_path)) == ["twice (1).bin", "twice (2).bin", "twice (3).bin", "twice.bin"]
    assert all(path.read_bytes() == DATA for path in tmp_path.iterdir())


def test_what_comes_compressed_is_saved_plain(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    url = serve("/packed", Page(compress("gzip", DATA), headers=(("Content-Encoding", "gzip"),)))
    assert browser.download(url, tmp_path).path.read_bytes() == DATA


def test_an_empty_file_is_a_file(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    done = browser.download(serve("/", Page(b"")), tmp_path)
    assert (done.path.name, done.size) == ("download.html", 0)


# ── what breaks off goes on ──────────────────────────────────────────────────────────────────────────────────────


def test_a_broken_download_goes_on_where_it_broke(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    file = Files(DATA, 300_000, 1, 0, 300_000)
    assert browser.download(serve("/broken", file), tmp_path).path.read_bytes() == DATA
    assert file.asked[0] is None
    assert file.asked[1:] == ["bytes=300000-", "bytes=300001-", "bytes=300001-", "bytes=600001-"]
    assert set(file.if_range[1:]) == {ETAG}


def test_a_date_does_as_well_as_a_tag(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    changed = "Wed, 01 Jan 2025 00:00:00 GMT"
    headers = {"Last-Modified": changed, "Date": "Thu, 02 Jan 2025 00:00:00 GMT"}
    file = Files(DATA, 300_000, etag="", headers=headers)
    url = serve("/dated", file)
    assert browser.download(url, tmp_path).path.read_bytes() == DATA
    assert file.if_range == [None, changed]
    assert file.asked == [None, "bytes=300000-"]


def test_a_later_call_goes_on_with_what_an_earlier_one_left(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    file = Files(DATA, 300_000, 0, 0, 0, 0, 0)
    url = serve("/later.bin", file)
    error = failing(browser, url, tmp_path)
    part = error.part
    assert part is not None
    assert str(part) in str(error)
    assert (part.parent, part.stat().st_size) == (tmp_path, 300_000)
    assert stat.S_IMODE(part.stat().st_mode) == 0o600
    file.asked.clear()
    assert browser.download(url, tmp_path).path == tmp_path / "later.bin"
    assert file.asked == ["bytes=300000-"]
    assert (tmp_path / "later.bin").read_bytes() == DATA
    assert os.listdir(tmp_path) == ["later.bin"]


def test_what_was_there_in_whole_is_not_asked_for_again(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    target = tmp_path / "all.bin"
    file = Files()

    async def puts_something_there(request: Request, writer: asyncio.StreamWriter) -> None:
        target.write_bytes(b"another's")
        await file(request, writer)

    url = serve("/all.bin", puts_something_there)
    error = failing(browser, url, target)
    assert error.code == "file_exists"
    assert target.read_bytes() == b"another's"
    target.unlink()
    serve("/all.bin", file)
    assert browser.download(url, target).path.read_bytes() == DATA
    assert file.asked == [None, f"bytes={len(DATA)}-"]


def test_a_file_that_changed_meanwhile_is_begun_anew(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    other = DATA[::-1]
    file = Files(DATA, 300_000)

    async def changes(request: Request, writer: asyncio.StreamWriter) -> None:
        await file(request, writer)
        file.data, file.etag = other, '"v2"'

    assert browser.download(serve("/changed", changes), tmp_path).path.read_bytes() == other
    assert file.asked == [None, "bytes=300000-"]


@pytest.mark.parametrize(
    "lie",
    [
        "bytes 0-799999/800000",
        "bytes 299999-799999/800000",
        "bytes 300001-799999/800000",
        "bytes 300000-799999/900000",
        "bytes 300000-899999/900000",
        "bytes 300000-300000/800000",
        "bytes 300000-299999/800000",
        "bytes 300000-799999",
        "bytes */800000",
        "bytes=300000-799999/800000",
        "lines 300000-799999/800000",
        "bytes 300000-99999999999999999999/*",
        "",
    ],
)
def test_another_part_than_was_asked_for_is_not_put_behind_the_first(
    browser: Browser, serve: Serve, tmp_path: Path, lie: str
) -> None:
    file = Files(DATA, 300_000)
    file.lie = lambda _first: lie
    assert browser.download(serve("/lie", file), tmp_path).path.read_bytes() == DATA
    assert file.asked == [None, "bytes=300000-", None]


def test_a_part_of_a_file_with_another_tag_is_not_put_behind_the_first(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    file = Files(DATA, 300_000)
    file.headers = {"ETag": '"v1"'}

    async def tagged(request: Request, writer: asyncio.StreamWriter) -> None:
        await file(request, writer)
        file.headers = {"ETag": '"v2"'}

    assert browser.download(serve("/tagged", tagged), tmp_path).path.read_bytes() == DATA
    assert file.asked == [None, "bytes=300000-", None]


def test_a_part_that_nobody_asked_for_is_refused(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    part = Page(b"abc", status=206, headers=(("Content-Range", "bytes 0-2/6"),))
    assert failing(browser, serve("/unasked", part), tmp_path).code == "bad_response"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("resume", [True, False])
def test_what_cannot_be_gone_on_with_leaves_nothing(
    browser: Browser, serve: Serve, tmp_path: Path, resume: bool
) -> None:
    file = Files(DATA, *[300_000] * 10, etag='W/"weak"' if resume else ETAG)
    error = failing(browser, serve("/nothing", file), tmp_path, resume=resume)
    assert (error.code, error.part) == ("bad_response", None)
    assert set(file.asked) == {None}
    assert len(file.asked) < 5
    assert os.listdir(tmp_path) == []


def test_without_resume_an_earlier_part_is_not_used(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    file = Files(DATA, 300_000, 0, 0, 0, 0, 0)
    url = serve("/fresh", file)
    assert failing(browser, url, tmp_path).part is not None
    file.asked.clear()
    assert browser.download(url, tmp_path, resume=False).path.read_bytes() == DATA
    assert file.asked == [None]
    assert os.listdir(tmp_path) == ["fresh"]


def test_a_file_of_somebody_else_with_the_parts_name_is_left_alone(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    file = Files(DATA, 300_000, 0, 0, 0, 0, 0)
    url = serve("/mine", file)
    part = failing(browser, url, tmp_path).part
    assert part is not None
    for attribute in os.listxattr(part):
        os.removexattr(part, attribute)
    file.asked.clear()
    assert browser.download(url, tmp_path).path.read_bytes() == DATA
    assert file.asked == [None]
    assert sorted(os.listdir(tmp_path)) == sorted([part.name, "mine"])


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_endless_file_ends_at_the_limit_and_leaves_nothing(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    error = failing(browser, serve("/endless", endless), tmp_path, max_bytes=1_000_000)
    assert error.code == "too_large"
    assert "1,000,000" in str(error)
    announced = failing(browser, serve("/long", Files()), tmp_path, max_bytes=len(DATA) - 1)
    assert announced.code == "too_large"
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_told_and_what_came_is_kept(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    url = serve("/full", Files())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        error = failing(browser, url, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert error.code == "no_room"
    assert "File too large" in str(error)
    assert error.part is not None
    assert error.part.stat().st_size == 500_000
    assert browser.download(url, tmp_path).path.read_bytes() == DATA


def test_a_file_that_the_disk_has_no_room_for_is_not_begun(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    async def says_it_is_huge(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\nx")

    error = failing(browser, serve("/huge", says_it_is_huge), tmp_path, max_bytes=2**40)
    assert error.code == "no_room"
    assert os.listdir(tmp_path) == []


def test_a_file_with_another_digest_is_not_taken(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    error = failing(browser, serve("/digest", Files()), tmp_path, sha256="0" * 64)
    assert error.code == "wrong_digest"
    assert hashlib.sha256(DATA).hexdigest() in str(error)
    assert os.listdir(tmp_path) == []


def test_a_deadline_leaves_what_can_be_gone_on_with(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    async def stalls(_request: Request, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nETag: {ETAG}\r\nContent-Length: {len(DATA)}\r\n\r\n"
        writer.write(head.encode() + DATA[:300_000])
        await asyncio.sleep(60)

    url = serve("/stalls", stalls)
    with pytest.raises(TimeoutError, match="500 ms"):
        browser.download(url, tmp_path, timeout=500)
    (part,) = tmp_path.iterdir()
    assert part.stat().st_size == 300_000
    file = Files()
    serve("/stalls", file)
    assert browser.download(url, tmp_path).path.read_bytes() == DATA
    assert file.asked == ["bytes=300000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["stalls"]


def test_a_callback_that_raises_ends_the_download(browser: Browser, serve: Serve, tmp_path: Path) -> None:
    def stop(_progress: DownloadProgress) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        browser.download(serve("/callback", Files()), tmp_path, progress=stop, resume=False)
    assert os.listdir(tmp_path) == []


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_that_is_no_success_is_no_file(browser: Browser, server: Server, tmp_path: Path) -> None:
    error = failing(browser, server.url("/nowhere"), tmp_path)
    assert (error.code, str(error).endswith("404 Not Found")) == ("http_status", True)
    assert os.listdir(tmp_path) == []


def test_the_network_policy_holds_also_where_a_redirect_leads(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    for url in ("http://10.0.0.1/file", serve("/away", redirect("http://10.0.0.1/file"))):
        with pytest.raises(AddressRefused):
            browser.download(url, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"path": "/nowhere/at/all"}, "No such file"),
        ({"path": "/etc/passwd/x"}, "Not a directory"),
        ({"sha256": "abc"}, "64 hexadecimal digits"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"headers": {"Range": "bytes=1-"}}, "range"),
        ({"headers": {"X": "a\nb"}}, "headers"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    browser: Browser, server: Server, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    before = len(server.requests)
    with pytest.raises(InvalidArgument, match=re.escape(words)):
        browser.download(server.url("/x"), **{"path": tmp_path, **options})
    assert len(server.requests) == before


def test_the_current_folder_is_the_default(
    browser: Browser, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert browser.download(serve("/here.txt", Page(b"x"))).path == tmp_path / "here.txt"


def test_a_process_that_ends_in_the_middle_costs_nothing(
    browser: Browser, serve: Serve, tmp_path: Path
) -> None:
    file = Files(DATA)

    async def in_two(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.headers.get("range"):
            await file(request, writer)
            return
        head = f"HTTP/1.1 200 OK\r\nETag: {ETAG}\r\nContent-Length: {len(DATA)}\r\n\r\n"
        writer.write(head.encode() + DATA[:300_000])
        await asyncio.sleep(60)

    killed: list[int] = []

    def kill(_progress: DownloadProgress) -> None:
        if not killed:
            for process in browser._browser.request.servers.processes:
                killed.append(process.pid)
                process.kill()

    done = browser.download(serve("/killed", in_two), tmp_path, progress=kill)
    assert done.path.read_bytes() == DATA
    (asked,) = file.asked
    assert asked is not None
    assert killed
    assert not {process.pid for process in browser._browser.request.servers.processes} & set(killed)


def test_a_page_that_is_a_file_says_how_to_have_it(browser: Browser, serve: Serve) -> None:
    url = serve("/archive", Page(b"PK\3\4", "application/zip"))
    with browser.new_page() as page, pytest.raises(Exception, match=r"browser\.download\(\)"):
        page.goto(url)
