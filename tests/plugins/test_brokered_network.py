"""What a plugin may ask of the network, its host asks for it; everything else is denied, and told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloister import NetworkPolicy
from cloister.errors import CapabilityRefused, InvalidArgument
from cloister.plugins.events import PluginEvent
from cloister.plugins.limits import Limits
from cloister.plugins.plugin import Plugin
from cloister.plugins.runtime import PluginRuntime
from tests.browser.test_bad_input import name_server
from tests.servers import Page, Server, redirect

CODE = """
import host

def ask(name, *x):
    try: return getattr(host, name)(*x)
    except host.Denied as error: return 'denied: ' + str(error)
    except host.HostFunctionError as error: return 'failed: ' + str(error)

def post(url): return host.request(url, "POST", headers={"X-Mine": "yes"}, body=b"sent", timeout=5)
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    with Server() as made:
        made.routes = {
            "/": Page(b"here", headers=(("Set-Cookie", "a=b"),)),
            "/post": Page(b"made", status=201),
            "/large": Page(b"x" * 200_000),
            "/same": redirect("/"),
            "/elsewhere": redirect(f"http://localhost:{made.port}/"),
            "/metadata": redirect("http://169.254.169.254/"),
        }
        yield made


@pytest.fixture(scope="module")
def runtime() -> Iterator[PluginRuntime]:
    records = {"private.example.org": ["A 127.0.0.1"], "public.example.org": ["A 93.184.216.34"]}
    with (
        name_server(records) as dns,
        PluginRuntime(network=NetworkPolicy(dns_servers=[f"127.0.0.1:{dns}"])) as made,
    ):
        yield made


@pytest.fixture
def denied(runtime: PluginRuntime) -> list[PluginEvent]:
    heard: list[PluginEvent] = []
    runtime.on("denied", heard.append)
    return heard


def granted(runtime: PluginRuntime, grants: dict[str, list[str]], **given: Any) -> Plugin:
    return runtime.load_source(CODE, "client", grants=grants, **given)


def test_a_granted_host_is_asked(runtime: PluginRuntime, site: Server) -> None:
    plugin = granted(runtime, {"net:request": [f"127.0.0.1:{site.port}"]})
    found = plugin.call("ask", "request", site.url("/"))
    assert (found["status"], found["body"], found["url"]) == (200, b"here", site.url("/"))
    assert ["content-length", "4"] in found["headers"]
    before = len(site.requests)
    posted = plugin.call("post", site.url("/post"))
    assert (posted["status"], posted["body"]) == (201, b"made")
    assert {name: site.requests[before].headers[name] for name in ("x-mine", "content-length")} == {
        "x-mine": "yes",
        "content-length": "4",
    }
    assert "cookie" not in site.requests[before].headers, "nothing is kept of one request for the next"
    assert plugin.call("ask", "request", site.url("/same"))["url"] == site.url("/")


def test_no_other_host_is_asked_whatever_it_is_called(
    runtime: PluginRuntime, site: Server, denied: list[PluginEvent]
) -> None:
    plugin = granted(runtime, {"net:request": [f"127.0.0.1:{site.port}"]})
    before = len(site.requests)
    port = site.port
    urls: tuple[object, ...] = (
        f"http://localhost:{port}/", "http://127.0.0.1/", f"http://127.0.0.1:{port}@example.org/", "file:///etc/passwd",
        f"http://user:word@127.0.0.1:{port}/", f"http://0x7f.1:{port}/", f"http:\\\\127.0.0.1:{port}/", "", "x",
        f"ftp://127.0.0.1:{port}/", f"http://127.0.0.1:{port}.example.org/", "http://[::1]/", f"//127.0.0.1:{port}/",
        3, None, [], b"http://127.0.0.1/",
    )  # fmt: skip
    for url in urls:
        assert plugin.call("ask", "request", url).startswith("denied: net:request"), url
    assert len(site.requests) == before
    assert len(denied) == 17
    assert {event.plugin for event in denied} == {"client"}


def test_a_redirect_leads_to_granted_hosts_only(
    runtime: PluginRuntime, site: Server, denied: list[PluginEvent]
) -> None:
    plugin = granted(runtime, {"net:request": [f"127.0.0.1:{site.port}"]})
    for path in ("/elsewhere", "/metadata"):
        before = len(site.requests)
        assert plugin.call("ask", "request", site.url(path)).startswith("denied:")
        assert site.requests[before:][1:] == []
    assert len(denied) == 2
    both = granted_again(runtime, {"net:request": [f"127.0.0.1:{site.port}", f"localhost:{site.port}"]})
    assert both.call("ask", "request", site.url("/elsewhere"))["url"] == site.url("/", "localhost")


def granted_again(runtime: PluginRuntime, grants: dict[str, list[str]]) -> Plugin:
    runtime.unload("client")
    return granted(runtime, grants)


def test_a_granted_name_opens_no_private_address(
    runtime: PluginRuntime, site: Server, denied: list[PluginEvent]
) -> None:
    """Whoever has a name in the DNS says where it leads."""
    plugin = granted(runtime, {"net:request": [f"*.example.org:{site.port}"]})
    before = len(site.requests)
    answer = plugin.call("ask", "request", site.url("/", "private.example.org"))
    assert answer == "denied: net:request: that address is refused"
    assert "127.0.0.1" in denied[0].what
    assert len(site.requests) == before


def test_no_other_host_at_the_same_address_is_named(
    runtime: PluginRuntime, site: Server, denied: list[PluginEvent]
) -> None:
    plugin = granted(runtime, {"net:request": [f"127.0.0.1:{site.port}"]})
    for name in ("Host", "hOST"):
        answer = plugin.call("ask", "request", site.url("/"), "GET", {name: "intranet.example.org"})
        assert answer.startswith("denied: ")
    assert len(denied) == 2
    assert "failed" in plugin.call("ask", "request", site.url("/"), "GET", {"Transfer-Encoding": "chunked"})


def test_a_large_body_is_sent(runtime: PluginRuntime, site: Server) -> None:
    plugin = granted(runtime, {"net:request": [f"127.0.0.1:{site.port}"]})
    for body in (b"x" * 100_000, bytearray(b"y" * 100_000), "z" * 100_000):
        assert plugin.call("ask", "request", site.url("/"), "POST", None, body)["status"] == 200
        assert site.requests[-1].headers["content-length"] == "100000"


def test_an_answer_is_no_larger_than_a_result(runtime: PluginRuntime, site: Server) -> None:
    plugin = granted(runtime, {"net:request": [f"127.0.0.1:{site.port}"]}, limits=Limits(result="100 KiB"))
    assert plugin.call("ask", "request", site.url("/large")).startswith("failed: HostError: ")
    assert plugin.call("ask", "request", site.url("/"))["body"] == b"here"


def test_what_is_asked_for_wrongly_is_told(runtime: PluginRuntime, site: Server) -> None:
    plugin = granted(runtime, {"net:request": [f"127.0.0.1:{site.port}"]})
    wrong: list[list[object]] = [
        ["GET /"], ["GET", ["x"]], ["GET", {"a": 1}], ["GET", {"a b": "c"}], ["GET", {"a": "b\r\nc: d"}],
                 ["GET", None, {}], ["GET", None, b"", "soon"], ["GET", None, b"", 0], ["GET", None, b"", float("nan")],
                 [3],
    ]  # fmt: skip
    for rest in wrong:
        assert plugin.call("ask", "request", site.url("/"), *rest).startswith("failed: HostError"), rest


def test_without_a_grant_nothing_is_asked(runtime: PluginRuntime, denied: list[PluginEvent]) -> None:
    plugin = granted(runtime, {})
    for name, argument in (("request", "http://example.org/"), ("resolve", "example.org")):
        assert plugin.call("ask", name, argument).startswith("denied: net:")
    assert [event.what.split()[0] for event in denied] == ["net:request", "net:dns"]


def test_names_are_looked_up_as_granted(runtime: PluginRuntime, denied: list[PluginEvent]) -> None:
    plugin = granted(runtime, {"net:dns": ["*.example.org", "LOCALHOST"]})
    assert plugin.call("ask", "resolve", "public.example.org") == ["93.184.216.34"]
    assert plugin.call("ask", "resolve", "Public.Example.ORG.") == ["93.184.216.34"]
    assert sorted(plugin.call("ask", "resolve", "localhost")) == ["127.0.0.1", "::1"]
    assert "unknown host" in plugin.call("ask", "resolve", "none.example.org")
    for name in ("example.org", "example.com", "localhost.example.com"):
        assert plugin.call("ask", "resolve", name).startswith("denied: net:dns"), name
    wrong: tuple[object, ...] = ("", "a b", "x" * 300, "a/../b", 3, None, "é.example.org", "a.example.org\n")
    for each in wrong:
        assert plugin.call("ask", "resolve", each).startswith("failed: HostError: that is no name"), each
    assert len(denied) == 3


def test_what_is_both_declared_and_granted_is_the_narrower(runtime: PluginRuntime) -> None:
    from cloister.plugins.capabilities import resolve

    def both(declared: list[str], granted: list[str]) -> tuple[str, ...]:
        return resolve("p", {"net:request": declared}, {"net:request": granted}).hosts

    assert both(["*.example.org"], ["api.example.org:443"]) == ("api.example.org:443",)
    assert both(["api.Example.org"], ["*.example.org"]) == ("api.example.org",)
    assert both(["api.example.org:8000"], ["api.example.org"]) == (), "no port is those of http and https"
    assert both(["api.example.org"], ["api.example.org:443"]) == ("api.example.org:443",)
    assert both(["example.org", "127.0.0.1:22"], ["*.example.org"]) == ()
    assert both(["*.a.example.org"], ["*.example.org"]) == ("*.a.example.org",)
    for wrong in ("*", "http://example.org", "example.org/x", "*.1", "a b", "10.0.0.0/8", ""):
        with pytest.raises(CapabilityRefused):
            both(["example.org"], [wrong])


def test_functions_of_the_host_cannot_take_these_names(runtime: PluginRuntime) -> None:
    with pytest.raises(InvalidArgument, match="request"):
        runtime.load_source("", "taken", functions={"request": print})
