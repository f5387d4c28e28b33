"""The commands with a name server and a proxy of the user's own."""

from __future__ import annotations

import asyncio
import sys

import pytest
from tests.lookup_server.conftest import Zone
from tests.proxies import ProxyServer
from tests.servers import Server


async def text(*arguments: str) -> tuple[int, str, str]:
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cloister", "text", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await asyncio.wait_for(running.communicate(), 50)
    return running.returncode or 0, said.decode(), complained.decode()


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_page_is_opened_through_a_proxy(scheme: str) -> None:
    proxy = ProxyServer(credentials=("me", "p@:w"))

    async def run() -> tuple[int, str, str]:
        with Server() as site:
            proxy.leads_to = site.port
            async with proxy.serve() as port:
                return await text("http://a.example/", "--proxy", f"{scheme}://me:p%40%3Aw@127.0.0.1:{port}")

    assert asyncio.run(run()) == (0, "Hello\n", "")
    assert proxy.asked == [("a.example", 80)]


def test_a_proxy_that_refuses_is_told_in_a_line_without_the_password() -> None:
    proxy = ProxyServer(credentials=("me", "right"))

    async def run() -> tuple[int, str, str]:
        async with proxy.serve() as port:
            return await text("http://a.example/", "--proxy", f"http://me:wrong@127.0.0.1:{port}")

    code, said, complained = asyncio.run(run())
    assert (code, said) == (1, "")
    assert complained.count("\n") == 1
    assert "wants a username and a password" in complained
    assert "wrong" not in complained


def test_a_name_is_looked_up_where_the_user_says() -> None:
    zone = Zone({"a.example": ["A 127.0.0.1"]})

    async def run() -> tuple[int, str, str]:
        with Server() as site:
            async with zone.serve() as port:
                return await text(
                    site.url("/", "a.example"),
                    "--dns-server",
                    f"127.0.0.1:{port}",
                    "--allow-host",
                    "a.example",
                )

    assert asyncio.run(run()) == (0, "Hello\n", "")
    assert {name for name, _, _ in zone.asked} == {"a.example"}
