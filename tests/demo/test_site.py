"""The demo's servers: what they serve, what they refuse to, and that they end."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from cloister.demo.daylight import TOWNS, hours_of_daylight
from cloister.demo.server import BOMB_UNPACKED, FILES, DemoServer


@pytest.fixture
def demo() -> Iterator[DemoServer]:
    with DemoServer() as running:
        yield running


def get(port: int, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return (
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )
    finally:
        connection.close()


class References(HTMLParser):
    """Every address that a document names."""

    def __init__(self, document: bytes) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(document.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.update(value for name, value in attrs if name in ("href", "src") and value)


def test_every_file_in_the_table_is_served_with_its_type(demo: DemoServer) -> None:
    for path, (_, content_type) in FILES.items():
        status, headers, body = get(demo.site.port, path)
        assert (status, headers["content-type"]) == (200, content_type), path
        assert body, path


@pytest.mark.parametrize("path", ["/", "/daylight", "/rooms"])
def test_a_good_page_names_nothing_that_the_site_does_not_have(demo: DemoServer, path: str) -> None:
    for address in References(get(demo.site.port, path)[2]).found:
        if not address.startswith("/hostile/"):
            assert get(demo.site.port, address)[0] == 200, address


def test_the_hostile_pages_that_the_rooms_page_names_are_all_there(demo: DemoServer) -> None:
    named = {a for a in References(get(demo.site.port, "/rooms")[2]).found if a.startswith("/hostile/")}
    endless = {"/hostile/bomb", "/hostile/drip"}
    assert endless < named
    assert all(get(demo.site.port, path)[0] == 200 for path in named - endless)


@pytest.mark.parametrize(
    "path",
    ["/style.css/../index.html", "/../server.py", "//etc/passwd", "/site/index.html", "/%2e%2e/server.py"],
)
def test_a_path_that_is_not_in_the_table_is_not_found(demo: DemoServer, path: str) -> None:
    assert get(demo.site.port, path)[0] == 404


def test_the_reaching_page_aims_at_the_canary_and_at_every_form_of_loopback(demo: DemoServer) -> None:
    _, _, body = get(demo.site.port, "/hostile/reach")
    page = body.decode()
    assert "{canary}" not in page
    for host in ("127.0.0.1", "[::1]", "2130706433", "[::ffff:127.0.0.1]", "localhost"):
        assert f"http://{host}:{demo.canary.port}/" in page
    assert "file:///etc/passwd" in page
    assert "http://169.254.169.254/" in page


def test_the_redirect_leads_to_the_canary_which_counts_who_comes(demo: DemoServer) -> None:
    status, headers, _ = get(demo.site.port, "/hostile/redirect")
    assert status == 302
    assert headers["location"] == f"http://127.0.0.1:{demo.canary.port}/redirected"
    assert demo.canary.seen == []
    get(demo.canary.port, "/redirected")
    assert demo.canary.seen == ["/redirected"]


def test_the_bomb_is_a_gigabyte_of_valid_gzip_in_a_few_megabytes(demo: DemoServer) -> None:
    status, headers, packed = get(demo.site.port, "/hostile/bomb")
    assert (status, headers["content-encoding"]) == (200, "gzip")
    assert len(packed) < 4_000_000
    unpacked = 0
    unpacker = zlib.decompressobj(wbits=31)
    while not unpacker.eof:
        unpacked += len(unpacker.decompress(packed, 2**24))
        packed = unpacker.unconsumed_tail
    assert unpacked == BOMB_UNPACKED  # and zlib found the check sum right


def test_the_oversized_image_declares_far_more_pixels_than_it_carries(demo: DemoServer) -> None:
    _, _, body = get(demo.site.port, "/hostile/oversized.png")
    assert struct.unpack(">II", body[16:24]) == (60_000, 60_000)
    assert len(body) < 20_000


def test_the_crashing_page_has_one_selector_within_the_other(demo: DemoServer) -> None:
    page = get(demo.site.port, "/hostile/crash")[2].decode()
    (selector,) = re.findall(r"<style>(.*) {}</style>", page)
    depth = selector.count(":not(")
    assert depth > 20_000
    assert selector == ":not(" * depth + "p" + ")" * depth


def test_a_client_in_the_middle_of_the_drip_does_not_keep_the_server_from_ending() -> None:
    with DemoServer() as running:
        client = socket.create_connection(("127.0.0.1", running.site.port), timeout=10)
        client.sendall(b"GET /hostile/drip HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        port = running.site.port
    client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)


def test_all_the_pictures_and_pages_together_stay_under_300_kilobytes(demo: DemoServer) -> None:
    assert sum(len(get(demo.site.port, path)[2]) for path in FILES) < 300_000


def test_the_table_of_daylight_has_a_row_for_each_town_and_a_cell_for_each_month(demo: DemoServer) -> None:
    page = get(demo.site.port, "/daylight")[2].decode()
    rows = [row for row in re.findall("<tr>(.*?)</tr>", page, re.DOTALL) if "background" in row]
    assert [row.count("background") for row in rows] == [12] * len(TOWNS)


def test_daylight_is_twelve_hours_at_the_equator_none_in_polar_night_and_longer_in_summer() -> None:
    assert all(abs(hours_of_daylight(0.0, day) - 12) < 0.2 for day in range(1, 366))
    assert hours_of_daylight(78.2, 355) == 0
    assert hours_of_daylight(78.2, 172) == 24
    assert hours_of_daylight(44.5, 172) > hours_of_daylight(44.5, 355)
    assert hours_of_daylight(-42.9, 172) < hours_of_daylight(-42.9, 355)
