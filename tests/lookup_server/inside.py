"""What test_world runs in a world of its own: prints what was tried, what came of it, and what was reached, as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any

import dns.message
import dns.rrset
import msgspec

from cloister import AsyncBrowser, NavigationError, NetworkPolicy
from cloister.errors import RequestFailed
from cloister.interfaces.lookup_server import LOOKUP, LOOKUP_ADMIN, AddClient, Connect, Options, PolicyRules
from cloister.ipc import Channel, Connection
from cloister.process import launch
from cloister.request_server import urls

from .conftest import Zone
from .spellings import ADDRESSES, PUBLIC, SPELLINGS, names
from .world import OWN_4, OWN_6, Impossible, World, add_address, enter


def raw(address: str) -> bool:
    """Whether a socket that nobody judges gets there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as there:
        there.settimeout(2)
        try:
            there.connect((address, 80))
        except OSError:
            return False
        return True


@contextlib.asynccontextmanager
async def lookup_server(port: int, rules: PolicyRules) -> AsyncIterator[Connection]:
    here, there = Channel.pair()
    admin = Connection(here, LOOKUP_ADMIN, "client")
    options = Options(rules, dns_servers=(f"127.0.0.1:{port}",), connect_timeout=5000)
    child = await launch("lookup_server", msgspec.msgpack.encode(options), [there])
    mine, its = Channel.pair()
    client = Connection(mine, LOOKUP, "client")
    try:
        await child.ready()
        admin.send(AddClient(), [its.detach()])
        yield client
    finally:
        client.close()
        admin.close()
        await child.end()


async def outcome(client: Connection, host: str, port: int = 80) -> str:
    try:
        reply, fds = await client.request(Connect(host, port), timeout=20)
    except RequestFailed as error:
        return error.code
    os.close(fds.take())
    return f"connected to {reply.address}"


async def by_url(client: Connection, url: str) -> str:
    """As a request_server does."""
    try:
        parsed = urls.parse(url)
    except RequestFailed as error:
        return error.code
    return await outcome(client, parsed.hostname.removeprefix("[").removesuffix("]"), urls.port(parsed))


def turning(query: dns.message.Message, zone: Zone, plain: Zone) -> bytes | None:
    """``turn.example`` is public the first time, and private from then on. TTL 0."""
    name = str(query.question[0].name).lower()
    if name != "turn.example.":
        return plain.answer(query.to_wire(), "udp")
    response = dns.message.make_response(query)
    if query.question[0].rdtype.name == "A":
        times = [kind for name, kind, _ in zone.asked if name == "turn.example"].count("A")
        address = PUBLIC[0] if times == 1 else "10.0.0.1"
        response.answer.append(dns.rrset.from_text(query.question[0].name, 0, "IN", "A", address))
    return response.to_wire()


async def main(world: World) -> dict[str, Any]:
    told: dict[str, Any] = {}
    told["raw"] = {address: raw(address) for address in (*ADDRESSES, *PUBLIC, OWN_4, OWN_6)}
    world.reached()
    plain = Zone(names())
    zone = Zone(plain.records)
    zone.script = lambda query: turning(query, zone, plain)
    async with zone.serve() as port:
        rules = PolicyRules(max_connections=4096)
        async with lookup_server(port, rules) as client:
            told["public"] = [await outcome(client, address) for address in PUBLIC]
            told["reached public"] = world.reached()
            told["spelled"] = {url: await by_url(client, url) for url in SPELLINGS}
            told["literal"] = {address: await outcome(client, address) for address in ADDRESSES}
            told["named"] = {name: await outcome(client, name) for name in plain.records}
            told["own"] = [await outcome(client, address) for address in (OWN_4, OWN_6)]
            told["reached"] = world.reached()
            since = ["198.41.0.10/32", "2620:9::1/128", "2620:1::3/64", "198.41.1.10/24"]
            for address in since:
                add_address("cable", address)
            told["own since"] = [await outcome(client, address.partition("/")[0]) for address in since]
            told["not own"] = await outcome(client, "198.41.2.11")
            told["reached since"] = world.reached()
            told["turned"] = [await outcome(client, "turn.example") for _ in range(3)]
            told["reached by turning"] = world.reached()
            told["bad port"] = await outcome(client, PUBLIC[0], 6000)
        rules = PolicyRules(
            allow_hosts=("0.example:80",), allow_cidrs=("192.168.0.0/16",), max_connections=4096
        )
        async with lookup_server(port, rules) as client:
            told["allowed"] = {
                host: await outcome(client, host)
                for host in (
                    "0.example",
                    "1.example",
                    ADDRESSES[0],
                    "192.168.1.1",
                    "[192.168.1.1]",
                    "10.0.0.1",
                )
            }
            told["reached by rule"] = world.reached()
    told["page"] = await by_page(world)
    return told


async def by_page(world: World) -> dict[str, Any]:
    """Each spelling is opened by a whole browser, as what a page shows and as what a page redirects to."""
    async with AsyncBrowser(network=NetworkPolicy(request_timeout=10)) as browser:
        page = await browser.new_page()
        await page.goto(f"http://{PUBLIC[0]}/page", timeout=20_000)
        said = await page.text()
        codes = []
        for url in SPELLINGS[::12]:
            try:
                await page.goto(url, timeout=10_000)
                codes.append("opened")
            except NavigationError as error:
                codes.append(error.code)
    return {"said": said, "codes": codes, "reached": sorted(set(world.reached()))}


def document() -> bytes:
    tags = "".join(
        f'<img src="{html.escape(url)}"><link rel=stylesheet href="{html.escape(url)}">' for url in SPELLINGS
    )
    return f"<!doctype html><meta charset=utf-8><p>a page</p>{tags}".encode()


if __name__ == "__main__":
    try:
        enter()
        world = World({"/page": ("text/html", document())})
        with world.exists():
            json.dump(asyncio.run(main(world)), sys.stdout)
    except Impossible as error:
        json.dump({"impossible": str(error)}, sys.stdout)
