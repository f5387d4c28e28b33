"""The format text/event-stream: a table of the HTML standard's cases, and any cut of the same bytes."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.request_server import event_stream
from cloister.request_server.event_stream import Event, Parser

STREAMS: dict[str, tuple[bytes, list[tuple[str, str, str]]]] = {
    "one event": (b"data: hello\n\n", [("message", "hello", "")]),
    "several lines": (b"data: a\ndata: b\n\n", [("message", "a\nb", "")]),
    "no space": (b"data:a\n\n", [("message", "a", "")]),
    "two spaces": (b"data:  a\n\n", [("message", " a", "")]),
    "a colon in the value": (b"data: a: b\n\n", [("message", "a: b", "")]),
    "no colon": (b"data\n\n", [("message", "", "")]),
    "two without a colon": (b"data\ndata\n\n", [("message", "\n", "")]),
    "a type": (b"event: add\ndata: 1\n\n", [("add", "1", "")]),
    "an empty type": (b"event: add\nevent:\ndata: 1\n\n", [("message", "1", "")]),
    "a type that is not kept": (
        b"event: add\ndata: 1\n\ndata: 2\n\n",
        [("add", "1", ""), ("message", "2", "")],
    ),
    "an id that is kept": (b"id: 7\ndata: 1\n\ndata: 2\n\n", [("message", "1", "7"), ("message", "2", "7")]),
    "an id that is taken back": (
        b"id: 7\ndata: 1\n\nid\ndata: 2\n\n",
        [("message", "1", "7"), ("message", "2", "")],
    ),
    "an id with NUL": (b"id: 7\nid: a\0b\ndata: 1\n\n", [("message", "1", "7")]),
    "an id after the data": (b"data: 1\nid: 7\n\n", [("message", "1", "7")]),
    "no data": (b"event: add\nid: 7\n\ndata: 2\n\n", [("message", "2", "7")]),
    "comments": (b": hi\n:\ndata: 1\n:: x\n\n", [("message", "1", "")]),
    "unknown fields": (b"datax: 1\n data: 1\nDATA: 1\ndata : 1\n\n", []),
    "no end": (b"data: 1\n\ndata: 2\n", [("message", "1", "")]),
    "CR": (b"data: a\rdata: b\r\r", [("message", "a\nb", "")]),
    "CRLF": (b"data: a\r\ndata: b\r\n\r\n", [("message", "a\nb", "")]),
    "all of them": (b"data: a\rdata: b\n\r\ndata: c\r\n\n", [("message", "a\nb", ""), ("message", "c", "")]),
    "LF CR is two": (b"data: a\n\rdata: b\n\n", [("message", "a", ""), ("message", "b", "")]),
    "a BOM": (b"\xef\xbb\xbfdata: a\n\n", [("message", "a", "")]),
    "two BOMs": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [("message", "b", "")]),
    "a BOM later": (b"\n\xef\xbb\xbfdata: a\n\n", []),
    "half a BOM": (b"\xef\xbb", []),
    "what looks like one": (b"\xef\xbbdata: a\n\ndata: b\n\n", [("message", "b", "")]),
    "no UTF-8": (b"data: caf\xe9\n\n", [("message", "caf\ufffd", "")]),
    "UTF-8": ("event: ü\nid: é\ndata: \U0001f600\n\n".encode(), [("ü", "\U0001f600", "é")]),
    "nothing": (b"", []),
    "empty lines": (b"\n\r\n\r\n\n", []),
}


def read(pieces: list[bytes], parser: Parser | None = None) -> list[Event]:
    parser = parser or Parser()
    return [event for piece in pieces for event in parser.feed(piece)]


def shown(events: list[Event]) -> list[tuple[str, str, str]]:
    return [(event.type, event.data.decode(), event.last_event_id) for event in events]


@pytest.mark.parametrize("name", STREAMS)
def test_what_a_stream_says(name: str) -> None:
    data, events = STREAMS[name]
    assert shown(read([data])) == events
    assert shown(read([data[i : i + 1] for i in range(len(data))])) == events
    assert (
        shown(read(list(itertools.chain(*((data[i : i + 2], b"") for i in range(0, len(data), 2))))))
        == events
    )


@given(
    lines=st.lists(
        st.sampled_from(
            [
                b"data: a",
                b"data",
                b"data:\xc3\xa9",
                b"id: 1",
                b"id:\0",
                b"event: x",
                b"retry: 5",
                b": c",
                b"",
                b"\xff",
            ]
        ),
        max_size=12,
    ),
    ends=st.lists(st.sampled_from([b"\n", b"\r", b"\r\n"]), min_size=12, max_size=12),
    at=st.lists(st.integers(0, 200), max_size=12),
    bom=st.booleans(),
)
def test_any_cut_gives_the_same_events(
    lines: list[bytes], ends: list[bytes], at: list[int], bom: bool
) -> None:
    data = b"\xef\xbb\xbf" * bom + b"".join(line + end for line, end in zip(lines, ends, strict=False))
    borders = sorted({0, len(data), *(each % (len(data) + 1) for each in at)})
    whole, cut = Parser(), Parser()
    assert read([data], whole) == read([data[a:b] for a, b in itertools.pairwise(borders)], cut)
    assert (whole.retry, whole.last_event_id) == (cut.retry, cut.last_event_id)


@given(data=st.binary(max_size=200))
def test_nothing_is_raised_by_any_bytes(data: bytes) -> None:
    for event in read([data]):
        assert event.type
        event.data.decode()


@pytest.mark.parametrize(
    ("said", "retry"),
    [
        (b"retry: 10", 10),
        (b"retry:0", 0),
        (b"retry: 007", 7),
        (b"retry: " + b"9" * 5000, int("9" * 12)),
        (b"retry: -1", None),
        (b"retry: 1.5", None),
        (b"retry: 1 ", None),
        (b"retry:", None),
        ("retry: ٣".encode(), None),
    ],
)
def test_when_to_ask_anew(said: bytes, retry: int | None) -> None:
    parser = Parser()
    read([said + b"\n"], parser)
    assert parser.retry == retry


def test_the_id_goes_on_from_the_connection_before_and_counts_once_it_was_dispatched() -> None:
    parser = Parser("7")
    assert shown(read([b"data: 1\n\nid: 8\n"], parser)) == [("message", "1", "7")]
    assert parser.last_event_id == "7"
    read([b"\n"], parser)
    assert parser.last_event_id == "8"


@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: " + bytes(10_000)],
        [b"x" * 10_000, b"x"],
        [b"data: " + b"x" * 999 + b"\n"] * 11,
        [b"data\n" * 10_001],
        [b"event: " + b"x" * 1025 + b"\n"],
        [b"id: " + b"x" * 1025 + b"\n"],
    ],
    ids=["a line", "a line in pieces", "an event", "many empty lines", "a type", "an id"],
)
def test_what_is_too_long_is_refused(pieces: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 10_000)
    with pytest.raises(ValueError, match="too long"):
        read(pieces)
    assert read([b"data: " + b"x" * 9000 + b"\n\n"] * 3) == [Event("message", b"x" * 9000, "")] * 3
