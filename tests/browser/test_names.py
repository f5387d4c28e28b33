"""Names, addresses and proxies through a whole browser: each process is locked down, and what must work does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lookup_server.conftest import Zone
from tests.lookup_server.secure_servers import Secure
from tests.proxies import ProxyServer
from tests.servers import Authority, Server

from cloister import AddressRefused, AsyncBrowser, NavigationError, NetworkPolicy
from cloister.errors import InvalidArgument


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def roots(authority: Authority, tmp_path: Path) -> Path:
    file = tmp_path / "roots.pem"
    file.write_text(authority.roots)
    return file


@contextlib.asynccontextmanager
async def browsing(**how: Any) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """What gives the title of a page at an address."""
    async with AsyncBrowser(**how) as browser:

        async def title(url: str) -> str:
            page = await browser.new_page()
            try:
                await page.goto(url, timeout=10_000)
                return await page.title()
            finally:
                await page.close()

        yield title


@pytest.mark.parametrize("protocol", ["tls", "https"])
def test_a_page_is_found_by_a_name_server_over_tls(protocol: str, authority: Authority, roots: Path) -> None:
    zone = Zone({"a.example": ["A 127.0.0.1"], "b.example": ["CNAME a.example.", "A 127.0.0.1"]})
    secure = Secure(zone, authority.context("dns.example", http_2=False))

    async def run() -> list[str]:
        with Server() as site:
            async with secure.serve(protocol) as port:
                path = "/dns-query" if protocol == "https" else ""
                policy = NetworkPolicy(
                    allow_hosts=["a.example", "b.example"],
                    dns_servers=[f"{protocol}://127.0.0.1:{port}{path}#dns.example"],
                )
                async with browsing(network=policy, ca_certs=roots) as title:
                    titles = [
                        await title(site.url("/", host)) for host in ("a.example", "b.example", "a.example")
                    ]
                    with pytest.raises(NavigationError) as caught:
                        await title("http://nowhere.example/")
                    assert caught.value.code == "unknown_host"
                    return titles

    assert asyncio.run(run()) == ["Home"] * 3
    assert {transport for _, _, transport in zone.asked} == {protocol}
    assert secure.connections == 1
    assert [name for name, kind, _ in zone.asked if kind == "A"] == [
        "a.example",
        "b.example",
        "nowhere.example",
    ]


def test_a_name_server_that_nobody_vouches_for_is_asked_nothing(authority: Authority) -> None:
    zone = Zone({"a.example": ["A 127.0.0.1"]})
    secure = Secure(zone, authority.context("dns.example", http_2=False))

    async def run() -> str:
        async with secure.serve("tls") as port:
            policy = NetworkPolicy(dns_servers=[f"tls://127.0.0.1:{port}#dns.example"])
            async with browsing(network=policy) as title:
                with pytest.raises(NavigationError, match="certificate is not trusted") as caught:
                    await title("http://a.example/")
                return caught.value.code

    assert asyncio.run(run()) == "dns_failed"
    assert zone.asked == []


@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("tls", [False, True])
def test_a_page_comes_through_a_proxy(scheme: str, tls: bool, authority: Authority, roots: Path) -> None:
    proxy = ProxyServer(credentials=("me", "secret"))

    async def run() -> str:
        with Server(tls=authority.context("a.example") if tls else None) as site:
            proxy.leads_to = site.port
            async with proxy.serve() as port:
                settings = {"server": f"{scheme}://127.0.0.1:{port}", "username": "me", "password": "secret"}
                async with browsing(proxy=settings, ca_certs=roots) as title:
                    with pytest.raises(AddressRefused):
                        await title("http://metadata.google.internal/")
                    with pytest.raises(AddressRefused):
                        await title(f"http://127.0.0.1:{site.port}/")
                    return await title(f"http{'s' * tls}://a.example/")

    assert asyncio.run(run()) == "Home"
    assert proxy.asked == [("a.example", 443 if tls else 80)]


def test_a_redirect_through_a_proxy_is_judged_anew() -> None:
    proxy = ProxyServer()

    async def run() -> None:
        with Server() as site:
            proxy.leads_to = site.port
            async with proxy.serve() as port, browsing(proxy={"server": f"127.0.0.1:{port}"}) as title:
                with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
                    await title("http://a.example/redirect-private")

    asyncio.run(run())
    assert proxy.asked == [("a.example", 80)]


def test_a_proxy_that_refuses_is_told_as_what_failed() -> None:
    proxy = ProxyServer(credentials=("me", "secret"))

    async def run() -> str:
        async with proxy.serve() as port, browsing(proxy={"server": f"http://127.0.0.1:{port}"}) as title:
            with pytest.raises(NavigationError, match="wants a username") as caught:
                await title("http://a.example/")
            return caught.value.code

    assert asyncio.run(run()) == "proxy_failed"


@pytest.mark.parametrize(
    ("proxy", "message"),
    [
        ("http://localhost", "proxy is {"),
        ({}, "proxy is {"),
        ([{"server": "a:1"}, "x"], "proxy is {"),
        ([{"server": "a:1"}] * 17, "at most 16"),
        ({"server": "a:1", "user": "me"}, "'user'"),
        ({"server": 1}, "is a str"),
        ({"server": "https://a:1"}, "https:// is not one of http, socks5"),
        ({"server": "socks4://a:1"}, "socks4:// is not one of"),
        ({"server": "http://me:secret@a:1"}, "entries of their own"),
        ({"server": "http://a:1/path"}, "server is http://HOST:PORT"),
        ({"server": "http://a:0"}, "must be between 1 and 65535"),
        ({"server": "http://a:99999"}, "must be between 1 and 65535"),
        ({"server": "http://a..b:1"}, "no valid host name"),
        ({"server": "a:1", "password": "secret"}, "no username"),
        ({"server": "socks5://a:1", "username": "me"}, "takes a password"),
        ({"server": "a:1", "username": "m:e", "password": "secret"}, "no colon"),
        ({"server": "a:1", "username": "me", "password": "secret\r\nX: y"}, "control characters"),
        ({"server": "a:1", "username": "me", "password": "ä" * 128}, "at most 255 bytes"),
        ({"server": "a:1", "bypass": "http://b"}, "proxy: bypass"),
        ({"server": "a:1", "bypass": "10.0.0.1/8"}, "not a network"),
        ({"server": "a:1", "hosts": "*"}, "proxy: hosts"),
        ({"server": "a:1", "hosts": ",".join(["a"] * 257)}, "at most 256"),
    ],
)
def test_what_is_wrong_with_a_proxy_is_said_without_its_password(proxy: Any, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        AsyncBrowser(proxy=proxy)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("proxy.example", ("http", "proxy.example", 80)),
        ("http://Proxy.Example:3128/", ("http", "proxy.example", 3128)),
        ("socks5://[::1]", ("socks5", "::1", 1080)),
        ("socks5h://127.1:9050", ("socks5", "127.0.0.1", 9050)),
        ("http://bücher.example:8080", ("http", "xn--bcher-kva.example", 8080)),
    ],
)
def test_a_proxy_is_written_as_in_playwright(server: str, expected: tuple[str, str, int]) -> None:
    from cloister.browser.proxy import proxies

    (made,) = proxies({"server": server, "bypass": "a.example, .b.example,*.c.example:81, 10.0.0.0/8"})
    assert (made.scheme, made.host, made.port) == expected
    assert made.bypass == ("a.example", "*.b.example", "*.c.example:81", "10.0.0.0/8")
