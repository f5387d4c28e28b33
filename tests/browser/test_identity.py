"""Whom servers take a browser for, and who gets its passwords."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from tests import servers
from tests.servers import Page, Request, Server, redirect, respond

from cloister import Browser, InvalidArgument, NetworkPolicy
from cloister.browser.identity import HttpCredentials, Keyring

SAID = "Basic " + base64.b64encode(b"me:secret").decode()


async def locked(request: Request, writer: asyncio.StreamWriter) -> None:
    """Asks for a password, of images too."""
    if request.headers.get("authorization") == SAID:
        body = Page(b"<title>inside</title><img src=/image.png>")
        await respond(writer, servers.SITE["/image.png"] if "image" in request.target else body)  # type: ignore[arg-type]
    else:
        await respond(
            writer, Page(b"<title>locked</title>", status=401, headers=(("WWW-Authenticate", "Basic"),))
        )


def test_a_page_gets_its_password_and_its_images_do_and_nobody_else() -> None:
    with Server({"/": locked, "/image.png": locked}) as inside:
        steal = Page(f"<title>evil</title><img src={inside.url('/image.png')}>".encode())
        with Server({"/": steal, "/lead": redirect(inside.url("/"))}) as outside:
            mine: HttpCredentials = {"origin": inside.url(""), "username": "me", "password": "secret"}
            policy = NetworkPolicy(allow_hosts=["127.0.0.1"])
            with Browser(network=policy, http_credentials=mine) as browser, browser.new_page() as page:
                page.goto(inside.url("/"))
                assert page.title() == "inside"
                told = [request.headers.get("authorization") for request in inside.requests]
                assert told == [None, SAID, SAID]
                inside.requests.clear()
                page.goto(outside.url("/"))
                page.goto(outside.url("/lead"))  # it was not asked for by the user
                assert page.title() == "locked"
    assert not any("authorization" in request.headers for request in (*inside.requests, *outside.requests))


@pytest.mark.parametrize(
    "wrong",
    [
        {"origin": "intranet.example", "username": "a", "password": "b"},
        {"origin": "ftp://intranet.example", "username": "a", "password": "b"},
        {"origin": "https://intranet.example/path", "username": "a", "password": "b"},
        {"origin": "https://u:p@intranet.example", "username": "a", "password": "b"},
        {"origin": "https://intranet.example", "username": "a:b", "password": "b"},
        {"origin": "https://intranet.example", "username": "a", "password": "b\n"},
        {"origin": "https://intranet.example", "username": "a"},
        [{"origin": f"https://{n}.example", "username": "a", "password": "b"} for n in range(65)],
        ["https://intranet.example"],
    ],
)
def test_what_cannot_be_a_password_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidArgument, match="http_credentials"):
        Keyring(wrong)


def test_a_password_is_for_one_origin() -> None:
    keyring = Keyring([{"origin": "https://Intranet.example/", "username": "a", "password": "b"}])
    assert keyring.get("https://intranet.example:443/x") is not None
    for other in (
        "http://intranet.example/",
        "https://intranet.example:444/",
        "https://a.intranet.example/",
        "x",
    ):
        assert keyring.get(other) is None


AGENT = "Mozilla/5.0 (X11; Linux x86_64) Chrome/120.0.0.0"


@pytest.mark.parametrize(
    ("hints", "match"),
    [
        ({"brands": [("Chromium", "121")], "platform": "Linux"}, "versions"),
        ({"brands": [("Chromium", "120")], "platform": "Windows"}, "platform"),
        ({"brands": [("Chromium", "120")], "platform": "Linux", "mobile": True}, "platform"),
        ({"brands": [('Chrom"ium', "120")], "platform": "Linux"}, "client_hints"),
        ({"brands": [("Chromium", "120")]}, "client_hints"),
    ],
)
def test_client_hints_must_say_what_the_user_agent_says(hints: Any, match: str) -> None:
    with pytest.raises(InvalidArgument, match=match):
        Browser(user_agent=AGENT, client_hints=hints)


def test_client_hints_reach_a_server_over_https(ca_file: str, authority: servers.Authority) -> None:
    policy = NetworkPolicy(allow_hosts=["127.0.0.1"])
    with (
        Server({"/": Page()}, tls=authority.context()) as site,
        Browser(
            network=policy,
            ca_certs=ca_file,
            user_agent=AGENT,
            client_hints={"brands": [("Chromium", "120")], "platform": "Linux"},
        ) as browser,
        browser.new_page() as page,
    ):
        page.goto(site.url("/"))
    (request,) = site.requests
    assert request.headers["user-agent"] == AGENT
    assert request.headers["sec-ch-ua"] == '"Chromium";v="120"'
