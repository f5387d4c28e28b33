"""What a server learns of the page that asks: as much as the page's policy says."""

from __future__ import annotations

import pytest

from cloister.interfaces.fetch import ReferrerPolicy
from cloister.request_server.referrers import policy_of, referrer
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
def test_by_default_only_the_same_origin_learns_which_page_asks(source: str, target: str, told: str) -> None:
    assert referrer(source, parse(target)) == told


PAGE, SAME, OTHER, DOWN = (
    "https://a.example/page?q#f",
    "https://a.example/x",
    "https://b.example/",
    "http://a.example/",
)
WHOLE, SHORT = "https://a.example/page?q", "https://a.example/"


@pytest.mark.parametrize(
    ("policy", "same", "other", "down"),
    [
        ("no-referrer", "", "", ""),
        ("no-referrer-when-downgrade", WHOLE, WHOLE, ""),
        ("same-origin", WHOLE, "", ""),
        ("origin", SHORT, SHORT, SHORT),
        ("strict-origin", SHORT, SHORT, ""),
        ("origin-when-cross-origin", WHOLE, SHORT, SHORT),
        ("strict-origin-when-cross-origin", WHOLE, SHORT, ""),
        ("unsafe-url", WHOLE, WHOLE, WHOLE),
    ],
)
def test_a_policy_says_who_learns_what(policy: str, same: str, other: str, down: str) -> None:
    told = [referrer(PAGE, parse(target), ReferrerPolicy(policy)) for target in (SAME, OTHER, DOWN)]
    assert told == [same, other, down]


def test_a_very_long_page_is_told_by_its_origin() -> None:
    assert referrer("https://a.example/" + "x" * 5000, parse(SAME)) == SHORT


def test_the_last_policy_that_is_known_counts() -> None:
    assert policy_of(["origin", "no-referrer, whatever"]) is ReferrerPolicy.NO_REFERRER
    assert policy_of(["whatever"]) is None
