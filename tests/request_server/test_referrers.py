"""What a server learns of the page that asks: as much as the page's policy says."""

from __future__ import annotations

import pytest

from cloister.request_server.referrers import referrer
from cloister.request_server.urls import parse


@pytest.mark.parametrize(
    ("source", "target", "told"),
    [
        ("https://a.example/page?q#f", "https://a.example/x", "https://a.example/page?q"),
        ("https://user:pw@a.example/page", "https://a.example/x", "https://a.example/page"),
        ("https://a.example/page", "https://b.example/", "https://a.example/"),
        ("https://a.example/page", "https://a.example:8443/", "https://a.example/"),
        ("http://a.example/page", "https://a.example/", "http://a.example/"),
        ("https://a.example/page", "http://a.example/", ""),
        ("about:blank", "https://a.example/", ""),
        ("file:///home/me/private.html", "https://a.example/", ""),
        ("", "https://a.example/", ""),
    ],
)
def test_only_the_same_origin_learns_which_page_asks(source: str, target: str, told: str) -> None:
    assert referrer(source, parse(target)) == told
