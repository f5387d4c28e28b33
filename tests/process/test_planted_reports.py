"""What somebody else put into the folder of the crash reports is neither followed, waited for nor believed."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import CloisterError
from cloister.process.crash_report import MAX_REPORT, MAX_TRACE
from cloister.process.crashes import CrashReport, CrashStore
from tests.process.reports import IDS, ids, refusing, report, texts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\x1b[2J\u202e"),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=6,
)
GENUINE = json.loads(msgspec.json.encode(report(IDS[0], messages=[("sent", "Load")], layers=["seccomp"])))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "crashes"


@pytest.fixture
def store(folder: Path) -> CrashStore:
    return CrashStore(folder)


def test_a_planted_link_is_neither_written_through_nor_read(
    tmp_path: Path, store: CrashStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(mode=0o700)
    target = tmp_path / "target"
    target.write_bytes(msgspec.json.encode(report(IDS[3])))
    before = target.read_bytes()
    for name in (f".{IDS[1]}.tmp", f"{IDS[2]}.json", f"{IDS[3]}.json"):
        (folder / name).symlink_to(target)
    with refusing(caplog, "File exists"):
        assert store.write(report(IDS[1])) is None
    assert store.write(report(IDS[2])) is not None  # takes the link's place
    assert target.read_bytes() == before
    with caplog.at_level(logging.WARNING):
        assert ids(store) == [IDS[2]]
    assert IDS[3] in caplog.text
    with pytest.raises(CloisterError, match="not a crash report"):
        store.read(IDS[3])
    assert store.clear() == 2
    assert target.read_bytes() == before


def test_what_is_no_file_is_not_waited_for(store: CrashStore, folder: Path) -> None:
    store.write(report(IDS[0]))
    os.mkfifo(folder / f"{IDS[1]}.json")
    (folder / f"{IDS[2]}.json").mkdir()
    assert ids(store) == [IDS[0]]
    for id in IDS[1:3]:
        with pytest.raises(CloisterError, match="not a crash report"):
            store.read(id)
    assert store.clear() == 2
    assert os.listdir(folder) == [f"{IDS[2]}.json"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"\xff",
        b"[" * MAX_REPORT,
        b'{"x":' * 20_000,
        b" " * (MAX_REPORT + 1),
        msgspec.json.encode(report(IDS[1])),  # under another's name
    ],
)
def test_what_is_no_report_is_left_out_and_told_by_name(
    data: bytes, store: CrashStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(report(IDS[5]))
    (folder / f"{IDS[0]}.json").write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert ids(store) == [IDS[5]]
    assert IDS[0] in caplog.text
    with pytest.raises(CloisterError, match=f"{IDS[0]}: this is not a crash report"):
        store.read(IDS[0])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"end": {}}, "the end has no type"),
        ({"end": {"type": None}}, "the end has no type"),
        ({"time": "2026-11-20T13:01:02+23:59"}, "the time is not UTC"),
        ({"time": "2026-11-20T13:01:02"}, "timezone"),
        ({"messages": [["\x1b[2J" * 9999, "Load"]]}, "Invalid enum value"),
        ({"messages": [["sent", "Load"]] * 33}, "length"),
        ({"trace": "x" * (MAX_TRACE + 1)}, "length"),
        ({"kind": None}, "null"),
    ],
)
def test_a_field_that_cannot_be_is_named_in_one_printable_line(
    changed: dict[str, Any], words: str, store: CrashStore, folder: Path
) -> None:
    store.write(report(IDS[0]))
    (folder / f"{IDS[0]}.json").write_text(json.dumps({**GENUINE, **changed}))
    with pytest.raises(CloisterError) as refused:
        store.read(IDS[0])
    assert words in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


def test_a_file_as_large_as_a_disk_is_not_read(store: CrashStore, folder: Path) -> None:
    store.write(report())
    with (folder / f"{IDS[0]}.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(CloisterError, match="more than"):
        store.read(IDS[0])


@given(
    st.dictionaries(st.sampled_from([*GENUINE, "more"]), JSON, max_size=3),
    st.sampled_from(["time", *GENUINE]),
)
def test_a_hostile_file_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any], lost: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "hostile"
    folder.mkdir(mode=0o700, exist_ok=True)
    store = CrashStore(folder)
    for fields in ({**GENUINE, **changed}, {name: value for name, value in GENUINE.items() if name != lost}):
        (folder / f"{IDS[0]}.json").write_text(json.dumps(fields))
        found = _read_or_refused(store, IDS[0])
        assert all(c == "\n" or c.isprintable() for text in texts(msgspec.to_builtins(found)) for c in text)
        assert not isinstance(found, CrashReport) or found.id == IDS[0]


def _read_or_refused(store: CrashStore, id: str) -> CrashReport | str:
    try:
        return store.read(id)
    except CloisterError as error:
        return str(error)
