"""One question, and what a stranger may answer. dnspython writes the answers, and is the second opinion on them."""

from __future__ import annotations

import functools
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.lookup_server.message import (
    AAAA,
    MAX_ANSWER,
    A,
    Answer,
    Forged,
    NoAnswer,
    Question,
    Truncated,
)

HERE = b"\xc0\x0c"  # a pointer to the name that was asked for


def answer_to(question: Question, *records: str, authority: Iterable[str] = (), rcode: int = 0) -> bytes:
    response = dns.message.make_response(dns.message.from_wire(question.wire))
    response.set_rcode(dns.rcode.Rcode(rcode))
    for section, texts in ((response.answer, records), (response.authority, authority)):
        for text in texts:
            owner, ttl, kind, value = text.split(" ", 3)
            section.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, value))
    return response.to_wire()


def read(question: Question, *records: str, authority: Iterable[str] = (), rcode: int = 0) -> Answer:
    return question.read(answer_to(question, *records, authority=authority, rcode=rcode), stream=True)


def raw(question: Question, *records: bytes, flags: int = 0x8180) -> bytes:
    """An answer with ``records`` as they are."""
    return (
        question.wire[:2]
        + struct.pack("!5H", flags, 1, len(records), 0, 0)
        + question.wire[12:]
        + b"".join(records)
    )


def record(owner: bytes, kind: int, data: bytes, ttl: int = 60, its_class: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", kind, its_class, ttl, len(data)) + data


def test_a_question_is_one_that_others_understand() -> None:
    question = Question("a.long-name.example", AAAA)
    told = dns.message.from_wire(question.wire)
    assert told.flags == dns.flags.RD
    (asked,) = told.question
    assert str(asked.name).lower() == "a.long-name.example."
    assert asked.rdtype == dns.rdatatype.AAAA


def test_a_padded_question_says_the_same_in_a_length_that_says_little() -> None:
    for name in ("a.example", "a" * 63 + ".example", ".".join(["a" * 49] * 5)):
        question = Question(name, A)
        padded = question.padded()
        assert len(padded) % 128 == 0
        told, plain = dns.message.from_wire(padded), dns.message.from_wire(question.wire)
        assert (told.id, told.question) == (plain.id, plain.question)
        assert told.edns == 0


def test_neither_ids_nor_the_case_of_letters_can_be_foretold() -> None:
    questions = [Question("abcdefghijklmnop.example", A) for _ in range(50)]
    assert len({question.wire[:2] for question in questions}) > 40
    assert len({question.wire[2:] for question in questions}) > 40


def test_addresses_come_with_the_lowest_time_on_the_way() -> None:
    question = Question("a.example", A)
    told = read(
        question, "a.example. 300 CNAME b.example.", "b.example. 60 A 192.0.2.1", "b.example. 90 A 192.0.2.2"
    )
    assert (list(map(str, told.addresses)), told.ttl, told.exists) == (["192.0.2.1", "192.0.2.2"], 60, True)


def test_records_of_other_names_kinds_and_classes_say_nothing() -> None:
    question = Question("a.example", A)
    other = record(HERE, A, b"\1\2\3\4", its_class=3)
    assert question.read(raw(question, other), stream=True).addresses == ()
    assert (
        read(question, "b.example. 60 A 192.0.2.1", "a.example. 60 AAAA ::1", "a.example. 60 TXT x").addresses
        == ()
    )


SOA = "SOA ns.example. admin.example. 1 2 3 4"


@pytest.mark.parametrize(
    ("authority", "ttl"),
    [
        ([f"example. 300 {SOA} 60"], 60),
        ([f"example. 30 {SOA} 60"], 30),
        ([f". 30 {SOA} 60"], 30),
        ([f"other. 30 {SOA} 60"], 0),
        (["example. 30 NS ns.example."], 0),
        ([], 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rcode", [0, 3])
def test_that_there_is_nothing_holds_as_long_as_the_zone_says(
    authority: list[str], ttl: int, rcode: int
) -> None:
    told = read(Question("a.example", A), authority=authority, rcode=rcode)
    assert told == Answer((), ttl, exists=rcode == 0)


def test_an_alias_to_a_name_that_does_not_exist_is_one_too() -> None:
    told = read(
        Question("a.example", A), "a.example. 9 CNAME b.other.", authority=[f"other. 99 {SOA} 99"], rcode=3
    )
    assert told == Answer((), 9, exists=False)


def test_a_time_to_live_beyond_31_bits_is_none() -> None:
    question = Question("a.example", A)
    assert question.read(raw(question, record(HERE, A, b"\1\2\3\4", 2**31)), stream=True).ttl == 0


@pytest.mark.parametrize("rcode", ["FORMERR", "SERVFAIL", "NOTIMP", "REFUSED"])
def test_a_server_that_does_not_answer_is_told_by_what_it_said(rcode: str) -> None:
    question = Question("a.example", A)
    wire = answer_to(question, rcode=dns.rcode.from_text(rcode))
    bare = wire[:4] + bytes(8)  # some do not repeat the question
    for data in (wire, bare):
        with pytest.raises(NoAnswer, match=rcode):
            question.read(data, stream=False)


def changed(at: int, value: int) -> Callable[[bytes], bytes]:
    return lambda wire: wire[:at] + bytes([wire[at] ^ value]) + wire[at + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        changed(0, 1), changed(1, 0x80),  # the id
        changed(2, 0x80),  # no answer, but a question
        changed(2, 0x10),  # another opcode
        changed(5, 1), changed(5, 3),  # none, and two questions
        changed(13, 1),  # another name
        changed(12 + 12, 0x1D),  # another type
        changed(12 + 14, 2),  # another class
        lambda wire: wire[:11], lambda wire: b"", lambda wire: wire[:20],
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_answers_another_question_is_forged(change: Callable[[bytes], bytes], stream: bool) -> None:
    question = Question("a.example", A)
    wire = answer_to(question, "a.example. 60 A 192.0.2.1")
    with pytest.raises(Forged):
        question.read(change(wire), stream=stream)
    assert question.read(wire, stream=stream).addresses


def test_a_datagram_in_another_case_is_asked_for_again_where_nobody_can_forge() -> None:
    question = Question("abcdefghijklmnop.example", A)
    wire = answer_to(question, "abcdefghijklmnop.example. 60 A 192.0.2.1")
    other = wire[:12] + wire[12:36].swapcase() + wire[36:]
    with pytest.raises(Truncated):
        question.read(other, stream=False)
    assert question.read(other, stream=True).addresses


def test_a_truncated_datagram_says_to_ask_again() -> None:
    question = Question("a.example", A)
    with pytest.raises(Truncated):
        question.read(raw(question, flags=0x8380), stream=False)


CIRCLE = len(Question("a.example", A).wire)  # where the first record of an answer to it begins


@pytest.mark.parametrize(
    "records",
    [
        [record(struct.pack("!H", 0xC000 | CIRCLE), A, b"\1\2\3\4")],  # its own name
        [record(struct.pack("!H", 0xC000 | CIRCLE + 40), A, b"\1\2\3\4")],  # ahead
        [record(b"\xff\xff", A, b"\1\2\3\4")],
        [record(b"\x40a\0", A, b"\1\2\3\4")],  # a label of unknown form
        [record(b"\x80a\0", A, b"\1\2\3\4")],
        [record(b"\x3f" + b"a" * 63, A, b"\1\2\3\4") * 5],  # a name without an end
        [record(HERE, A, b"\1\2\3")],
        [record(HERE, A, b"")],
        [record(HERE, A, b"\1\2\3\4")[:-1]],
        [record(HERE, 5, b"\1b\0\0")],
        [record(HERE, 5, b"")],
        [record(HERE, 5, struct.pack("!H", 0xC000 | CIRCLE + 12))],
        [b""],
        [b"\xc0"],
    ],
)
def test_what_cannot_be_read_is_a_malformed_answer(records: list[bytes]) -> None:
    question = Question("a.example", A)
    with pytest.raises(NoAnswer, match="malformed"):
        question.read(raw(question, *records), stream=True)


def test_a_pointer_to_a_pointer_to_itself_ends() -> None:
    question = Question("a.example", A)
    loop = record(b"\1x" + struct.pack("!H", 0xC000 | CIRCLE), A, b"\1\2\3\4")
    with pytest.raises(NoAnswer, match="circle"):
        question.read(raw(question, loop), stream=True)


def test_aliases_have_an_end() -> None:
    question = Question("0.example", A)
    chain = [f"{n}.example. 60 CNAME {n + 1}.example." for n in range(40)]
    with pytest.raises(NoAnswer, match="aliases"):
        read(question, *chain, "40.example. 60 A 192.0.2.1")
    with pytest.raises(NoAnswer, match="circle"):
        read(question, "0.example. 60 CNAME 1.example.", "1.example. 60 CNAME 0.example.")
    assert read(question, *chain[:8], "8.example. 60 A 192.0.2.1").addresses


def test_an_answer_of_any_size_is_read_up_to_a_limit() -> None:
    question = Question("a.example", A)
    thousand = [record(HERE, A, number.to_bytes(4)) for number in range(1000)]
    assert len(question.read(raw(question, *thousand), stream=True).addresses) == 64
    with pytest.raises(NoAnswer, match="over 16,384 bytes"):
        question.read(raw(question, *thousand, *thousand), stream=True)


def costly(question: Question) -> Iterable[bytes]:
    """Answers that take a general parser seconds: many aliases, many kinds, many names, all of the longest names."""
    deep = b"".join(b"\1" + bytes([97 + i % 26]) for i in range(120)) + b"\0"
    first = record(deep, 16, b"")
    makers: tuple[Callable[[int], bytes], ...] = (
        lambda i: record(
            struct.pack("!H", 0xC000 | CIRCLE), 5, struct.pack("!H", 0xC000 | CIRCLE + 2 * (i % 100))
        ),
        lambda i: record(struct.pack("!H", 0xC000 | CIRCLE + 2 * (i % 100)), 300 + i, b""),
        lambda i: record(b"\1a" + struct.pack("!H", 0xC000 | CIRCLE), A, i.to_bytes(4)),
        lambda _: record(b"\0", 2, b""),
    )
    for make in makers:
        records = [first]
        while len(raw(question, *records)) < MAX_ANSWER - 20:
            records += [make(len(records) + i) for i in range(50)]
        while len(raw(question, *records)) > MAX_ANSWER:
            records.pop()
        yield raw(question, *records)


def steps(work: Callable[[], object]) -> int:
    """Lines of Python that ``work`` takes."""
    count = 0

    def trace(_frame: object, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_no_answer_keeps_everybody_else_waiting() -> None:
    question = Question("a.example", A)
    for data in costly(question):
        assert steps(functools.partial(question.read, data, stream=True)) < 500_000


NAMES = st.sampled_from(["a.example.", "A.Example.", "b.example.", "c.other.", "example.", "."])
RECORDS = st.lists(
    st.one_of(
        st.builds("{} {} A 192.0.2.{}".format, NAMES, st.integers(0, 9), st.integers(0, 9)),
        st.builds("{} {} AAAA 2001:db8::{}".format, NAMES, st.integers(0, 9), st.integers(0, 9)),
        st.builds("{} {} TXT {}".format, NAMES, st.integers(0, 9), st.sampled_from(["x", '"a b"'])),
    ),
    max_size=6,
)
ALIASES = st.lists(
    st.sampled_from(["a.example. 7 CNAME b.example.", "b.example. 8 CNAME c.other."]), unique=True
)


@settings(max_examples=100, deadline=None)
@given(records=RECORDS, aliases=ALIASES, kind=st.sampled_from([A, AAAA]))
def test_what_is_read_is_what_dnspython_reads(records: list[str], aliases: list[str], kind: int) -> None:
    question = Question("a.example", kind)
    wire = answer_to(question, *aliases, *records)
    theirs = dns.message.from_wire(wire)
    assert isinstance(theirs, dns.message.QueryMessage)
    chain = theirs.resolve_chaining()
    told = question.read(wire, stream=True)
    assert {str(address) for address in told.addresses} == {record.address for record in chain.answer or ()}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_behind_the_question_are_an_answer_or_none(data: st.DataObject) -> None:
    question = Question("a.example", A)
    wire = bytearray(
        answer_to(
            question, "a.example. 9 CNAME b.example.", "b.example. 9 A 192.0.2.1", f"example. 9 {SOA} 9"
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(12 + 15, len(wire) - 1))] = data.draw(st.integers(0, 255))
    tail = data.draw(st.binary(max_size=40))
    try:
        question.read(bytes(wire[: data.draw(st.integers(12, len(wire)))]) + tail, stream=True)
    except (NoAnswer, Forged):
        pass
