"""What is asked of a page, before a process is bothered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.browser.checks import site_of


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("https://example.org/a/b", "https://example.org"),
        ("HTTPS://Example.org", "https://example.org"),
        ("https://user:word@example.org:8443/", "https://example.org:8443"),
        ("https://example.org?q=@secret", "https://example.org"),
        ("https://example.org#@secret", "https://example.org"),
        ("https://example.org\\@secret", "https://example.org"),
        ("http://[2001:db8::1]:80/x", "http://[2001:db8::1]:80"),
        ("about:blank", None),
        ("data:text/html,secret", None),
        ("secret", None),
        ("", None),
        ("https://\x1b[2J\u202e/", "https://?[2j?"),
    ],
)
def test_a_site_is_scheme_host_and_port_and_nothing_more(url: str, site: str | None) -> None:
    assert site_of(url) == site


@given(st.text(max_size=400))
def test_a_site_is_short_and_printable_whatever_the_address(url: str) -> None:
    site = site_of(url)
    assert site is None or (site.isprintable() and len(site) <= 300)
