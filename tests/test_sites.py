"""The public suffix list, as a second reader of it sees it; and what a site is."""

from __future__ import annotations

import pytest
from publicsuffixlist import PublicSuffixList

from cloister import sites


def test_every_rule_means_what_another_reader_of_the_list_says() -> None:
    theirs = PublicSuffixList()
    hosts = [
        (before + rule.decode().lstrip("!").replace("*", "any")).encode("idna").decode()
        for rule in sites.load()
        if not rule.startswith(b"//")
        for before in ("", "a.", "b.a.")
    ]
    different = [host for host in hosts if theirs.privatesuffix(host) != sites.registrable(host)]
    assert len(hosts) > 30_000
    assert different == []


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("https://www.example.co.uk/x", "https://example.co.uk"),
        ("http://www.example.co.uk:8080", "http://example.co.uk"),
        ("HTTPS://A.Example.ORG?x", "https://example.org"),
        ("https://co.uk/", "https://co.uk"),
        ("https://someone.github.io/", "https://someone.github.io"),
        ("https://github.io/", "https://github.io"),
        ("https://www.ck/", "https://www.ck"),
        ("https://a.b.ck/", "https://a.b.ck"),
        ("http://localhost:1/", "http://localhost"),
        ("http://a.b.localhost:1/", "http://b.localhost"),
        ("http://127.0.0.1:1/", "http://127.0.0.1"),
        ("http://[::1]:1/", "http://[::1]"),
        ("https://example.org./", "https://example.org."),
        ("https://a.xn--55qx5d.cn/", "https://a.xn--55qx5d.cn"),
        ("https://b.a.xn--55qx5d.cn/", "https://a.xn--55qx5d.cn"),
        ("https://a.xn--0/", "https://a.xn--0"),
        ("https://" + "a." * 120 + "b.example/", "https://b.example"),
        ("ftp://example.org/", None),
        ("https://me@example.org/", None),
        ("https://example.org\\@evil.example/", None),
        ("about:blank", None),
        ("", None),
    ],
)
def test_a_site_is_a_scheme_and_what_somebody_registered(url: str, site: str | None) -> None:
    assert sites.site_of(url) == site


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.example/", "https://b.example/", False),
        ("https://www.a.example/", "https://a.example:8443/", True),
        ("https://a.example/", "http://a.example/", False),
        ("https://a.example/", "https://a.example./", False),
        ("https://a.github.io/", "https://b.github.io/", False),
        ("https://me@a.example/", "https://me@a.example/", False),
    ],
)
def test_which_are_of_one_site(one: str, other: str, same: bool) -> None:
    assert sites.is_same_site(one, other) is sites.is_same_site(other, one) is same
