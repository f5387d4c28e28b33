"""What the system's files say, read as the system reads them."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.lookup_server.configuration import Settings, parse_hosts, parse_nsswitch, parse_resolv_conf
from cloister.lookup_server.servers import Server


def test_name_servers_are_read_as_the_system_reads_them() -> None:
    text = "# x\nnameserver 192.0.2.1\n ; y\nnameserver 2001:db8::1 \nnameserver x\n; nameserver 192.0.2.9\nsearch a\n"
    assert [str(server) for server in parse_resolv_conf(text).servers] == ["192.0.2.1", "2001:db8::1"]
    assert len(parse_resolv_conf("nameserver 192.0.2.1\n" * 9).servers) == 3


def test_a_link_local_name_server_is_asked_on_its_interface() -> None:
    (name, index) = socket.if_nameindex()[0][::-1]
    text = f"nameserver fe80::1%{name}\nnameserver fe80::2%{index}\nnameserver fe80::3%no-such-interface\n"
    assert parse_resolv_conf(text).servers == (
        Server(ip_address("fe80::1"), scope=index),
        Server(ip_address("fe80::2"), scope=index),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("search corp.example Other.Example.", {"search": ("corp.example", "other.example")}),
        ("search a.example\ndomain b.example", {"search": ("b.example",)}),
        ("domain b.example\nsearch a.example c.example", {"search": ("a.example", "c.example")}),
        ("search " + "a.example " * 40, {"search": ("a.example",) * 16}),
        ("search bad/name a.example 192.0.2.1", {"search": ("a.example",)}),
        ("options ndots:5", {"ndots": 5}),
        ("options ndots:99 timeout:99 attempts:99", {"ndots": 15, "timeout": 30, "attempts": 5}),
        ("options ndots:0 timeout:0 attempts:0", {"ndots": 0, "timeout": 1, "attempts": 1}),
        ("options timeout:3 attempts:4\noptions rotate", {"timeout": 3, "attempts": 4, "rotate": True}),
        ("options no-aaaa edns0 trust-ad", {"ipv6": False}),
        ("options ndots:x timeout: attempts:-1", {}),
        ("options ndots:²", {}),
    ],
)
def test_each_setting_is_the_systems(text: str, expected: dict[str, Any]) -> None:
    assert parse_resolv_conf(text) == Settings(**expected)


def test_a_system_that_asks_over_tcp_only_is_followed() -> None:
    (server,) = parse_resolv_conf("nameserver 192.0.2.1\noptions use-vc").servers
    assert server.over == "tcp"


@pytest.mark.parametrize(
    ("line", "order"),
    [
        ("", ("files", "dns")),
        ("passwd: files", ("files", "dns")),
        ("hosts: files dns", ("files", "dns")),
        ("hosts: dns files", ("dns", "files")),
        ("hosts:files mdns4_minimal [NOTFOUND=return] dns # x", ("files", "dns")),
        ("hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns", ("files", "dns")),
        ("hosts: files", ("files",)),
        ("hosts: dns [NOTFOUND=return] files", ("dns",)),
        ("hosts: nis", ()),
        ("# hosts: dns\nhosts: files", ("files",)),
    ],
)
def test_sources_are_asked_in_the_systems_order(line: str, order: tuple[str, ...]) -> None:
    assert parse_nsswitch(line) == order


@pytest.mark.parametrize(
    ("name", "settings", "spellings"),
    [
        ("a", {"search": ("x", "y")}, ("a.x", "a.y", "a")),
        ("a.b", {"search": ("x",)}, ("a.b", "a.b.x")),
        ("a.b", {"search": ("x",), "ndots": 2}, ("a.b.x", "a.b")),
        ("a", {}, ("a",)),
        ("a." * 120 + "a", {"search": ("x" * 20,)}, ("a." * 120 + "a",)),
    ],
)
def test_a_name_is_completed_as_the_dots_in_it_say(
    name: str, settings: dict[str, Any], spellings: tuple[str, ...]
) -> None:
    assert Settings(**settings).spellings(name) == spellings


@given(st.text() | st.from_regex(r"(options|search|nameserver|hosts:)[ -~\n]{0,60}", fullmatch=True))
def test_any_text_reads_as_each_of_them(text: str) -> None:
    parse_hosts(text)
    parse_nsswitch(text)
    settings = parse_resolv_conf(text)
    assert 0 <= settings.ndots <= 15
    assert 1 <= settings.attempts <= 5
    assert 1 <= settings.timeout <= 30


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("1.1.1.1", Server(ip_address("1.1.1.1"))),
        ("1.1.1.1:5353", Server(ip_address("1.1.1.1"), 5353)),
        ("::1", Server(ip_address("::1"))),
        ("[::1]:5353", Server(ip_address("::1"), 5353)),
        ("tcp://[::1]", Server(ip_address("::1"), 53, "tcp")),
        ("tls://1.1.1.1", Server(ip_address("1.1.1.1"), 853, "tls")),
        ("tls://9.9.9.9:8853#dns.quad9.net", Server(ip_address("9.9.9.9"), 8853, "tls", "dns.quad9.net")),
        ("https://[2606:4700::1111]/dns-query",
         Server(ip_address("2606:4700::1111"), 443, "https", "", "/dns-query")),
        ("https://8.8.8.8/dns-query#dns.google",
         Server(ip_address("8.8.8.8"), 443, "https", "dns.google", "/dns-query")),
    ],
)  # fmt: skip
def test_a_name_server_is_written_so(text: str, server: Server) -> None:
    assert Server.parse(text) == server


@pytest.mark.parametrize(
    "text",
    ["dns.example", "1.1.1.1:x", "127.1", "", "1.1.1.1:0", "1.1.1.1:65536", "tls://dns.example", "tls://1.1.1.1/x",
     "https://1.1.1.1", "1.1.1.1#name", "tcp://1.1.1.1#name", "tls://1.1.1.1#1.1.1.1", "tls://1.1.1.1#a b",
     "quic://1.1.1.1", "https://user@1.1.1.1/x", "https://1.1.1.1/a b", "https://1.1.1.1/x\r\ny", "tls://1.1.1.1#"],
)  # fmt: skip
def test_what_is_no_name_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Server.parse(text)
