"""Crash reports: what they say, and what they never hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.ends import BadMessage, Crashed, End, Exited, Killed, OutOfMemory, SandboxViolation
from cloister.process.crash_report import MAX_REPORT, MAX_TRACE
from cloister.process.crashes import CrashReport, CrashStore, ResourceUse
from tests.process.reports import report, texts

ANY_END = st.one_of(
    st.builds(Exited, st.none() | st.integers(0, 255)),
    st.builds(Crashed, st.integers(1, 64)),
    st.builds(Killed, st.text()),
    st.builds(SandboxViolation, st.none() | st.text()),
    st.builds(OutOfMemory, st.text()),
    st.builds(BadMessage, st.text()),
)


def test_a_report_says_how_the_process_ended_and_what_it_was(tmp_path: Path) -> None:
    written = report(
        end=SandboxViolation("socket"),
        site="https://example.org:8443",
        trace="Traceback:\n  line 1\n",
        messages=[("sent", "Load"), ("received", "Loaded")],
        layers=["seccomp", "landlock"],
        usage=ResourceUse(max_rss_bytes=2**20, cpu_seconds=0.5),
    )
    path = CrashStore(tmp_path / "crashes").write(written)
    assert path is not None
    said = json.loads(path.read_bytes())
    assert said["end"] == {"type": "SandboxViolation", "syscall": "socket", "arguments": None}
    assert said["sentence"] == str(SandboxViolation("socket"))
    assert (said["signal"], said["syscall"]) == ("SIGSYS", "socket")
    assert said["site"] == "https://example.org:8443"
    assert said["trace"] == "Traceback:\n  line 1\n"
    assert said["messages"] == [["sent", "Load"], ["received", "Loaded"]]
    assert said["usage"]["max_rss_bytes"] == 2**20
    assert said["usage"]["pss_bytes"] is None
    assert said["versions"]["kernel"] == os.uname().release
    assert {"cloister", "python", "architecture", "plutoprint", "pillow"} <= said["versions"].keys()
    assert said["id"][:8] == said["time"][:10].replace("-", "")
    assert said["time"].endswith("Z")
    assert CrashStore(tmp_path / "crashes").read(said["id"]) == written


@given(
    ANY_END,
    st.text(max_size=80),
    st.text(max_size=400),
    st.lists(st.tuples(st.sampled_from(["sent", "received"]), st.text(max_size=99)), max_size=40),
)
def test_what_is_made_of_any_end_is_printable_and_reads_back_as_it_was(
    end: End, kind: str, trace: str, messages: list[Any]
) -> None:
    made = report(kind=kind, end=end, trace=trace, messages=messages, layers=[kind])
    encoded = msgspec.json.encode(made)
    assert msgspec.json.decode(encoded, type=CrashReport) == made
    assert all(c == "\n" or c.isprintable() for text in texts(json.loads(encoded)) for c in text)
    assert made.end["type"] == type(end).__name__
    assert made.end.keys() == {"type", *msgspec.structs.asdict(end)}


def test_the_longest_report_is_short_enough_to_be_read(tmp_path: Path) -> None:
    for character in ('"', "\U00020000", "\x1b", "\n"):
        text = character * 100_000
        longest = report(
            kind=text,
            end=BadMessage(text),
            site=f"https://{text}",
            trace=text,
            messages=[("received", text)] * 99,
            layers=[text] * 99,
        )
        assert len(longest.trace.encode()) <= MAX_TRACE
        assert len(longest.messages) == 32
        path = CrashStore(tmp_path / "crashes").write(longest)
        assert path is not None
        assert path.stat().st_size <= MAX_REPORT
        assert CrashStore(tmp_path / "crashes").read(longest.id) == longest


def test_a_long_trace_keeps_its_beginning_and_its_end() -> None:
    kept = report(trace="Fatal Python error\n" + "é frame\n" * 10_000 + "ValueError: last\n").trace
    assert kept.startswith("Fatal Python error\né frame\n")
    assert kept.endswith("é frame\nValueError: last\n")
    assert "\n[...]\n" in kept


def test_the_newest_messages_are_those_that_are_kept() -> None:
    kept = report(messages=[("sent", f"M{number}") for number in range(50)]).messages
    assert [name for _, name in kept] == [f"M{number}" for number in range(18, 50)]


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("https://Example.org/a/secret?secret#secret", "https://example.org"),
        ("http://secret:secret@example.org:8080?secret", "http://example.org:8080"),
        ("http://[::1]:80/secret", "http://[::1]:80"),
        ("https://example.org\\secret", "https://example.org"),
        ("file:///home/secret", None),
        ("data:text/html,secret", None),
        ("about:secret", None),
        ("secret", None),
        ("", None),
        (None, None),
    ],
)
def test_of_an_address_only_the_scheme_host_and_port_are_kept(address: str | None, site: str | None) -> None:
    made = report(
        site=address,
        end=BadMessage(f"it asked for '{address}'"),
        trace=f'Error: "{address}"\n' if address != "secret" else "",
    )
    assert made.site == site
    if address not in ("secret", "about:secret"):
        assert b"secret" not in msgspec.json.encode(made)
        assert "it asked for '" in made.sentence


def test_a_text_that_looks_like_many_addresses_is_cut_in_no_time_that_counts() -> None:
    for text in ("a" * 10**6, "a://" * 10**5, "a://x@" * 10**5, "a:" * 10**5, "data:" * 10**5):
        assert len(report(trace=text).trace) <= MAX_TRACE


def test_importing_the_reports_brings_nothing_heavy() -> None:
    code = """if True:
        import sys, msgspec
        had = set(sys.modules)
        import cloister.process.crashes
        print(*set(sys.modules) - had)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"importlib.metadata", "rich", "platform", "asyncio", "cloister.browser", "secrets"}
