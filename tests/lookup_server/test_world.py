"""What is refused is not reached: in a world where every address answers, and tells that it was connected to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .spellings import ADDRESSES, PUBLIC, SPELLINGS

Told = dict[str, Any]


@pytest.fixture(scope="module")
def told() -> Told:
    """What was tried in a world of its own, by ``inside.py``."""
    run = subprocess.run(
        [sys.executable, "-m", f"{__package__}.inside"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert run.returncode == 0, run.stderr
    found: Told = json.loads(run.stdout)
    if "impossible" in found:
        pytest.skip(f"there are no {found['impossible']}")
    return found


def test_everything_can_be_reached_by_whoever_is_not_judged(told: Told) -> None:
    raw = told["raw"]
    no_web_server_can_be_there = {"224.0.0.1", "255.255.255.255", "fe80::1", "ff02::1", "ff0e::1"}
    assert {address for address, reached in raw.items() if not reached} == no_web_server_can_be_there


def test_public_addresses_are_reached(told: Told) -> None:
    assert told["public"] == [f"connected to {address}" for address in PUBLIC]
    assert told["reached public"] == PUBLIC


def test_no_spelling_of_an_address_that_is_not_public_leads_there(told: Told) -> None:
    assert set(told["spelled"]) == set(SPELLINGS)
    assert set(told["spelled"].values()) == {"address_refused", "bad_url", "unknown_host"}
    assert list(told["spelled"].values()).count("address_refused") > 100
    assert told["reached"] == []


def test_no_address_that_is_not_public_is_reached_by_itself_or_by_a_name(told: Told) -> None:
    assert told["literal"] == dict.fromkeys(ADDRESSES, "address_refused")
    assert set(told["named"].values()) == {"address_refused"}
    assert told["reached"] == []


def test_the_machines_public_addresses_are_not_reached(told: Told) -> None:
    assert told["own"] == ["address_refused"] * 2
    assert told["reached"] == []


def test_neither_are_those_that_it_got_after_the_start(told: Told) -> None:
    assert told["own since"] == ["address_refused"] * 4
    assert told["not own"] == "connected to 198.41.2.11"
    assert told["reached since"] == ["198.41.2.11"]


def test_a_name_that_turns_private_leads_nowhere_from_then_on(told: Told) -> None:
    assert told["turned"] == [f"connected to {PUBLIC[0]}", "address_refused", "address_refused"]
    assert told["reached by turning"] == [PUBLIC[0]]


def test_ports_of_other_services_are_refused(told: Told) -> None:
    assert told["bad port"] == "address_refused"


def test_a_rule_opens_what_it_says_and_nothing_beside_it(told: Told) -> None:
    assert told["allowed"] == {
        "0.example": f"connected to {ADDRESSES[0]}",
        "1.example": "address_refused",
        ADDRESSES[0]: "address_refused",  # the rule is about the name
        "192.168.1.1": "connected to 192.168.1.1",
        "[192.168.1.1]": "bad_url",
    }
    assert told["reached by rule"] == [ADDRESSES[0], "192.168.1.1"]


def test_a_page_that_shows_every_spelling_reaches_nothing_but_its_server(told: Told) -> None:
    page = told["page"]
    assert page["said"].strip() == "a page"
    assert set(page["codes"]) <= {"address_refused", "bad_url", "unknown_host"}
    assert page["reached"] == [PUBLIC[0]]
