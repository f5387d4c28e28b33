"""The HTTP cache, by the sections of RFC 9111."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloister.interfaces.http_cache import CacheUse
from cloister.request_server import cache_rules
from cloister.request_server.cache import MAX_BODY, Cache
from cloister.request_server.cache_rules import date
from cloister.request_server.exchange import Asked, Headers
from cloister.request_server.urls import parse

URL = "https://a.example/x"
NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT
TODAY = "Sun, 06 Nov 1994 08:49:37 GMT"
YESTERDAY = "Sat, 05 Nov 1994 08:49:37 GMT"
TOMORROW = "Mon, 07 Nov 1994 08:49:37 GMT"
LAST_YEAR = "Sat, 06 Nov 1993 08:49:37 GMT"
HOUR, DAY = 3600, 24 * 3600


def pairs(said: dict[str, Any]) -> Headers:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in said.items()]


@dataclasses.dataclass
class Reply:
    """What the server says, once it is asked."""

    body: bytes = b"body"
    status: int = 200
    headers: Headers = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, body: bytes = b"body", status: int = 200, **said: Any) -> Reply:
        return cls(body, status, pairs(said))


class _Answer:
    def __init__(self, reply: Reply) -> None:
        self.status, self.headers, self._left = reply.status, list(reply.headers), [reply.body, b""]

    async def receive(self) -> bytes:
        return self._left.pop(0) if self._left else b""

    def close(self) -> None:
        pass


class World:
    """A cache between page loads and a server that says ``reply``; ``asked`` are the headers that it was asked with."""

    def __init__(self, use: CacheUse = CacheUse.ON) -> None:
        self.now = NOW
        self.delay = 0.0
        self.reply = Reply()
        self.asked: list[dict[str, str]] = []
        self.kept: dict[bytes, bytes] = {}
        self.use = use
        self.cache: Cache

    async def get(self, key: bytes) -> bytes:
        return self.kept.get(key, b"")

    async def put(self, key: bytes, entry: bytes) -> None:
        if entry:
            self.kept[key] = entry
        else:
            self.kept.pop(key, None)

    async def ask(self, asked: Asked) -> _Answer:
        self.asked.append({name.decode().lower(): value.decode() for name, value in asked.headers})
        self.now += self.delay
        return _Answer(self.reply)

    def load(
        self, reply: Reply | None = None, method: str = "GET", url: str = URL, read: bool = True, **sent: Any
    ) -> Any:
        """Ask for ``url``, as another page load would: what comes of it, and its body."""
        if reply is not None:
            self.reply = reply

        async def run() -> Any:
            self.cache = Cache(self.ask, self, self.use, lambda: self.now)
            answer = await self.cache.ask(Asked(method, parse(url), pairs(sent)))
            body = b""
            while read and (piece := await answer.receive()):
                body += piece
            self.cache.keep(answer)
            await asyncio.sleep(0)
            return answer.status, body, dict(answer.headers)

        return asyncio.run(run())

    def after(self, seconds: float, **sent: Any) -> str:
        """How the next load goes: "kept" without asking, or what was asked."""
        before = len(self.asked)
        self.now += seconds
        self.load(**sent)
        if len(self.asked) == before:
            return "kept"
        return "validated" if any(name.startswith("if-") for name in self.asked[-1]) else "asked"


def loaded(reply: Reply, **sent: Any) -> World:
    world = World()
    world.load(reply, **sent)
    return world


def goes(said: dict[str, Any], seconds: float = 0, status: int = 200) -> str:
    return loaded(Reply(b"body", status, pairs({"Date": TODAY, **said}))).after(seconds)


# ── 3: storing ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "then"),
    [
        ({"Cache_Control": "max-age=60"}, "kept"),
        ({"Cache_Control": "private, max-age=60"}, "kept"),
        ({"Cache_Control": 'private="x", max-age=60'}, "kept"),
        ({"Cache_Control": "MAX-AGE=60"}, "kept"),
        ({"Cache_Control": 'max-age="60"'}, "kept"),
        ({"Cache_Control": "max-age=60, no-store"}, "asked"),
        ({"Cache_Control": "no-store", "ETag": '"1"'}, "asked"),
        ({"Cache_Control": "No-Store=x"}, "asked"),
        ({"Cache_Control": "must-understand, no-store, max-age=60"}, "asked"),
        ({"Cache_Control": "s-maxage=60"}, "asked"),
        ({}, "asked"),
        ({"ETag": '"1"'}, "validated"),
        ({"Last_Modified": YESTERDAY}, "kept"),
        ({"Cache_Control": "max-age=60", "Vary": "*"}, "asked"),
        ({"Cache_Control": "max-age=60", "Vary": "Accept, *"}, "asked"),
    ],
)
def test_3_what_is_kept(said: dict[str, Any], then: str) -> None:
    assert goes(said) == then


@pytest.mark.parametrize(
    ("status", "by_heuristics", "by_its_word"),
    [
        (200, "kept", "kept"),
        (203, "kept", "kept"),
        (204, "kept", "kept"),
        (301, "kept", "kept"),
        (308, "kept", "kept"),
        (404, "kept", "kept"),
        (410, "kept", "kept"),
        (201, "asked", "kept"),
        (302, "asked", "kept"),
        (403, "asked", "kept"),
        (500, "asked", "kept"),
        (206, "asked", "asked"),
        (304, "asked", "asked"),
    ],
)
def test_3_which_statuses_are_kept(status: int, by_heuristics: str, by_its_word: str) -> None:
    assert goes({"Last_Modified": LAST_YEAR}, status=status) == by_heuristics
    assert goes({"Cache_Control": "max-age=60"}, status=status) == by_its_word


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "POST", "PUT"])
def test_3_only_what_get_was_answered_with_is_kept(method: str) -> None:
    world = World()
    world.load(Reply.of(Cache_Control="max-age=60"), method)
    assert world.after(0) == "asked"
    world.load(method=method)
    assert len(world.asked) == 3


def test_3_1_what_concerned_the_connection_only_or_set_a_cookie_is_left_out() -> None:
    world = World()
    said: dict[str, Any] = {
        "Set_Cookie": "id=1",
        "Connection": "X-Own, close",
        "X_Own": "1",
        "X_Kept": "1",
        "Trailer": "x",
    }
    reply = Reply.of(Cache_Control="max-age=60", **said)
    assert b"Set-Cookie" in world.load(reply)[2]
    assert set(world.load()[2]) == {b"Cache-Control", b"X-Kept", b"Age"}


def test_3_3_a_part_of_a_body_is_not_kept() -> None:
    world = World()
    world.load(Reply.of(Cache_Control="max-age=60"), read=False)
    assert world.after(0) == "asked"
    assert world.after(0, Range="bytes=0-1") == "asked"
    assert world.after(0) == "kept"


@pytest.mark.parametrize(
    ("said", "then"),
    [("max-age=60", "asked"), ("max-age=60, public", "kept"), ("max-age=60, must-revalidate", "kept"),
     ("max-age=60, s-maxage=1", "kept")],
)  # fmt: skip
def test_3_5_what_a_password_opened_is_kept_if_its_server_says_so(said: str, then: str) -> None:
    world = loaded(Reply.of(Cache_Control=said), Authorization="Basic x")
    assert world.after(0, Authorization="Basic x") == then


def test_what_is_too_large_is_not_kept() -> None:
    for size, then in ((MAX_BODY, "kept"), (MAX_BODY + 1, "asked")):
        assert loaded(Reply.of(bytes(size), Cache_Control="max-age=60")).after(0) == then


# ── 4: using ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_4_what_is_kept_is_as_it_came() -> None:
    world = loaded(Reply.of(b"\x1f\x8b...", 404, Cache_Control="max-age=60", Content_Encoding="gzip"))
    status, body, headers = world.load(Reply.of(b"new"))
    assert (status, body, headers[b"Content-Encoding"]) == (404, b"\x1f\x8b...", b"gzip")


@pytest.mark.parametrize(
    ("first", "then", "how"),
    [
        ({"Accept": "a"}, {"Accept": "a"}, "kept"),
        ({"Accept": "a"}, {"accept": " a "}, "kept"),
        ({"Accept": "a"}, {"Accept": "b"}, "asked"),
        ({"Accept": "a"}, {}, "asked"),
        ({}, {"Cookie": "id=1"}, "asked"),
        ({"Cookie": "id=1"}, {"Cookie": "id=1"}, "kept"),
        ({"Referer": "x"}, {"Referer": "y"}, "kept"),
    ],
)
def test_4_1_a_response_that_varies_is_for_the_same_request(
    first: dict[str, str], then: dict[str, str], how: str
) -> None:
    world = loaded(Reply.of(Cache_Control="max-age=60", Vary="accept, COOKIE"), **first)
    assert world.after(0, **then) == how


@pytest.mark.parametrize(
    ("said", "lifetime"),
    [
        ({"Cache_Control": "max-age=60"}, 60),
        ({"Cache_Control": "max-age=60", "Expires": LAST_YEAR}, 60),
        ({"Cache_Control": "max-age=60, max-age=30"}, 30),
        ({"Cache_Control": "max-age=x", "Expires": TOMORROW}, 0),
        ({"Cache_Control": "max-age=-1"}, 0),
        ({"Cache_Control": "max-age=1.5"}, 0),
        ({"Cache_Control": "max-age=" + "9" * 40}, 2**31),
        ({"Expires": TOMORROW}, DAY),
        ({"Expires": "0"}, 0),
        ({"Expires": YESTERDAY}, -DAY),
        ({"Expires": TOMORROW, "Date": ""}, DAY),
        ({"Last_Modified": YESTERDAY}, DAY / 10),
        ({"Last_Modified": LAST_YEAR}, DAY),
        ({"Last_Modified": TOMORROW}, 0),
        ({"Last_Modified": "nonsense"}, 0),
        ({}, 0),
    ],
)
def test_4_2_1_how_long_it_is_fresh(said: dict[str, Any], lifetime: float) -> None:
    assert cache_rules.lifetime(200, pairs({"Date": TODAY, **said}), NOW) == lifetime


def test_4_2_1_two_that_differ_say_nothing() -> None:
    twice = [*pairs({"Date": TODAY, "Expires": TOMORROW}), (b"expires", LAST_YEAR.encode())]
    assert cache_rules.lifetime(200, twice, NOW) == 0


@pytest.mark.parametrize(
    ("said", "delay", "stale_after"),
    [
        ({}, 0, 60),
        ({"Age": "50"}, 0, 10),
        ({"Age": "60"}, 0, 0),
        ({"Age": "x"}, 0, 60),
        ({"Age": "10"}, 20, 30),
        ({"Date": YESTERDAY}, 0, 0),
        ({"Date": TOMORROW}, 0, 60),
        ({"Date": "nonsense"}, 0, 60),
    ],
)
def test_4_2_3_how_old_it_is(said: dict[str, Any], delay: float, stale_after: float) -> None:
    world = World()
    world.delay = delay
    said = {"Date": TODAY, "Cache_Control": "max-age=60", "ETag": '"1"', **said}
    world.load(Reply.of(**said))
    if stale_after:
        assert world.after(stale_after - 1) == "kept"
        assert world.after(1) == "validated"
    else:
        assert world.after(0) == "validated"


def test_4_2_3_a_clock_that_is_set_back_makes_it_stale() -> None:
    world = loaded(Reply.of(Cache_Control="max-age=60", ETag='"1"'))
    assert world.after(-10) == "validated"


def test_5_1_the_page_is_told_how_old_it_is() -> None:
    world = loaded(Reply.of(Cache_Control="max-age=60", Age="7"))
    world.now += 10
    assert world.load()[2][b"Age"] == b"17"


# ── 4.3: asking whether it is still good ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ({"ETag": '"1"'}, {"if-none-match": '"1"'}),
        ({"ETag": 'W/"1"'}, {"if-none-match": 'W/"1"'}),
        ({"Last_Modified": LAST_YEAR}, {"if-modified-since": LAST_YEAR}),
        (
            {"ETag": '"1"', "Last_Modified": LAST_YEAR},
            {"if-none-match": '"1"', "if-modified-since": LAST_YEAR},
        ),
        ({"Last_Modified": "nonsense"}, {}),
    ],
)
def test_4_3_1_a_server_is_asked_by_what_it_said(said: dict[str, Any], asked: dict[str, str]) -> None:
    world = loaded(Reply.of(Cache_Control="max-age=1", **said))
    world.after(2)
    assert {name: value for name, value in world.asked[-1].items() if name.startswith("if-")} == asked


def test_4_3_3_a_new_response_takes_its_place() -> None:
    world = loaded(Reply.of(b"old", Cache_Control="max-age=1", ETag='"1"'))
    world.now += 2
    assert world.load(Reply.of(b"new", Cache_Control="max-age=60", ETag='"2"'))[1] == b"new"
    assert world.load(Reply.of(b"newer"))[1] == b"new"
    world.now += 100
    assert world.load(Reply.of(b"not kept", Cache_Control="no-store"))[1] == b"not kept"
    assert world.kept == {}
    world.load(Reply.of(b"old", Cache_Control="max-age=1", ETag='"1"'))
    world.now += 2
    assert world.load(Reply.of(b"broken", 500))[:2] == (500, b"broken")


def test_4_3_4_one_that_has_not_changed_is_fresh_again() -> None:
    world = loaded(Reply.of(b"old", Cache_Control="max-age=10", ETag='"1"', Content_Type="text/a", X_Old="1"))
    world.now += 20
    fresh = {"Cache_Control": "max-age=60", "ETag": 'W/"1"', "X_New": "2", "Set_Cookie": "id=2"}
    said = Reply.of(b"", 304, **fresh, Content_Length="0", Content_Type="text/b", Content_Encoding="br")
    status, body, headers = world.load(said)
    assert (status, body) == (200, b"old")
    assert headers == {
        b"Content-Type": b"text/a",
        b"X-Old": b"1",
        b"Cache-Control": b"max-age=60",
        b"ETag": b'W/"1"',
        b"X-New": b"2",
        b"Set-Cookie": b"id=2",  # for the cookie jar, this time
    }
    assert world.after(50) == "kept"
    assert b"Set-Cookie" not in world.load()[2]


def test_4_3_4_a_304_about_another_version_is_not_for_this_one() -> None:
    world = loaded(Reply.of(b"old", Cache_Control="max-age=10", ETag='"1"'))
    world.now += 20
    answers = [Reply.of(b"", 304, ETag='"2"'), Reply.of(b"new", ETag='"2"')]

    async def ask(asked: Asked) -> _Answer:
        world.reply = answers.pop(0)
        return await World.ask(world, asked)

    world.ask = ask  # type: ignore[method-assign]
    assert world.load()[1] == b"new"
    assert not any(name.startswith("if-") for name in world.asked[-1])


# ── 4.4: what changed something ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "X"])
@pytest.mark.parametrize(
    ("status", "then"), [(200, "asked"), (204, "asked"), (303, "asked"), (404, "kept"), (500, "kept")]
)
def test_4_4_what_changes_a_thing_makes_what_is_kept_worthless(method: str, status: int, then: str) -> None:
    world = loaded(Reply.of(Cache_Control="max-age=60"))
    world.load(Reply.of(status=status), method)
    assert world.after(0) == then


@pytest.mark.parametrize("name", ["Location", "Content_Location"])
@pytest.mark.parametrize(
    ("where", "then"),
    [
        ("/x", "asked"),
        (URL, "asked"),
        ("https://b.example/x", "kept"),
        ("http://a.example/x", "kept"),
        ("http://[", "kept"),
    ],
)
def test_4_4_and_what_it_names_of_its_own_origin(name: str, where: str, then: str) -> None:
    world = loaded(Reply.of(Cache_Control="max-age=60"))
    if where.startswith("https://b"):
        world.load(url=where)
    world.load(Reply(b"", 201, pairs({name: where})), "POST", "https://a.example/list")
    assert world.after(0) == then


# ── 5.2: directives ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "at_once", "later"),
    [
        ("max-age=60", "kept", "validated"),
        ("max-age=60, must-revalidate", "kept", "validated"),
        ("max-age=60, no-cache", "validated", "validated"),
        ('max-age=60, no-cache="Set-Cookie, X"', "validated", "validated"),
        ('max-age=60, x="no-cache"', "kept", "validated"),
        ("max-age=60, stale-while-revalidate=60", "kept", "validated"),
        ("max-age=60, immutable", "kept", "validated"),
    ],
)
def test_5_2_2_what_a_server_says_of_it(said: str, at_once: str, later: str) -> None:
    world = loaded(Reply.of(Cache_Control=said, ETag='"1"'))
    assert world.after(0) == at_once
    assert world.after(61) == later


@pytest.mark.parametrize(
    ("said", "then"),
    [("max-age=60", "validated"), ("max-age=60, immutable", "kept"), ("max-age=0, immutable", "validated")],
)
def test_a_reload_asks_but_for_what_never_changes(said: str, then: str) -> None:
    world = loaded(Reply.of(Cache_Control=said, ETag='"1"'))
    world.use = CacheUse.REVALIDATE
    assert world.after(0) == then


@pytest.mark.parametrize(
    "header",
    [{"Range": "bytes=0-"}, {"If_None_Match": '"x"'}, {"If_Modified_Since": TODAY}, {"If_Range": '"x"'},
     {"Cache_Control": "no-cache"}, {"Pragma": "no-cache"}],
)  # fmt: skip
def test_a_page_that_does_its_own_caching_has_none_of_ours(header: dict[str, Any]) -> None:
    world = loaded(Reply.of(Cache_Control="max-age=60"))
    before = len(world.asked)
    world.load(Reply.of(b"its own", Cache_Control="max-age=60"), **header)
    assert len(world.asked) == before + 1
    assert world.load()[1] == b"body"


# ── where it is kept ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_url_is_one_whatever_its_fragment() -> None:
    world = loaded(Reply.of(Cache_Control="max-age=60"))
    for url, asked in (
        (URL + "#part", 1),
        (URL + "?", 2),
        ("http://a.example/x", 3),
        ("https://a.example:444/x", 4),
    ):
        world.load(url=url)
        assert len(world.asked) == asked


def test_nothing_is_kept_or_looked_for_where_the_browser_says_so() -> None:
    world = World(CacheUse.OFF)
    world.load(Reply.of(Cache_Control="max-age=60"))
    assert world.kept == {}
    world.use = CacheUse.EMPTY
    world.load()
    assert len(world.kept) == 1
    assert world.after(0) == "asked"
    assert world.cache.use is CacheUse.ON


def entry(**changed: Any) -> bytes:
    fields: dict[str, Any] = {
        "url": URL,
        "status": 200,
        "headers": ((b"Cache-Control", b"max-age=60"),),
        "varied": (),
        "asked_at": NOW,
        "got_at": NOW,
        "body": b"poison",
    }
    return msgspec.msgpack.encode(list((fields | changed).values()))


@pytest.mark.parametrize(
    "forged",
    [
        b"\xc1",
        b"x" * 100,
        msgspec.msgpack.encode([URL]),
        msgspec.msgpack.encode({"url": URL}),
        entry(url="https://b.example/x"),
        entry(url=URL + "#x"),
        entry(status=100),
        entry(status="200"),
        entry(status=600),
        entry(headers=((b"ETag", b'"\r\nHost: b.example'),)),
        entry(headers=((b"a b", b""),)),
        entry(headers=((b"a", "text"),)),
        entry(headers=tuple((b"a", b"b") for _ in range(501))),
        entry(headers=((b"a", b"b", b"c"),)),
        entry(varied=(("accept", "x"),)),
        entry(body=bytes(MAX_BODY + 1)),
        entry(body=5),
        entry(asked_at=float("nan")),
        entry(got_at=float("inf")),
        entry(got_at=-float("inf")),
        entry(asked_at=NOW + 1),
        entry(more=1),
        entry() + b"x",
    ],
)
def test_what_was_forged_is_not_used(forged: bytes) -> None:
    world = World()
    world.load(Reply.of(b"real", Cache_Control="max-age=60"))
    (key,) = world.kept
    world.kept[key] = entry()
    assert world.load()[1] == b"poison"  # by a site against itself: of the right form
    world.kept[key] = forged
    assert world.load()[1] == b"real"
    assert len(world.asked) == 2


def test_entries_that_wait_are_bounded_and_what_is_forgotten_is_not_lost() -> None:
    async def run() -> int:
        cache = Cache(world.ask, world, CacheUse.ON)
        for number in range(100):
            cache._later(bytes([number]) * 32, b"entry")
        cache._later(bytes(32), b"")
        waiting = len(cache._puts)
        await asyncio.sleep(0)
        return waiting

    world = World()
    assert asyncio.run(run()) == 17
    assert len(world.kept) == 15


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (TODAY, NOW),
        ("Sunday, 06-Nov-94 08:49:37 GMT", NOW),
        ("Sun Nov  6 08:49:37 1994", NOW),
        (" Sun, 06 Nov 1994 08:49:37 GMT\t", NOW),
        ("Sun, 06 nov 1994 08:49:37 GMT", NOW),
        ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228799),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:37", None),
        ("Sun, 06 Nov 1994 08:49:37 +0000", None),
        ("Sun, 6 Nov 1994 08:49:37 GMT", None),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 0000 08:49:37 GMT", None),
        ("Sun, 06 Foo 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 24:49:37 GMT", None),
        ("٠", None),
        ("0", None),
        ("", None),
    ],
)
def test_dates_are_read_in_three_forms(text: str, seconds: float | None) -> None:
    assert date(text) == seconds


@given(st.text(max_size=200), st.text(max_size=60))
def test_any_header_is_read_or_not(said: str, dated: str) -> None:
    value, day = (text.encode("utf-8", "replace") for text in (said, dated))
    headers = [(b"Cache-Control", value), (b"Expires", day), (b"Date", day), (b"Age", day), (b"Vary", value)]
    cache_rules.is_storable([], 200, headers)
    assert cache_rules.lifetime(200, headers, NOW) <= 2**40
    cache_rules.age(headers, NOW, NOW, NOW)
    cache_rules.varied(headers, [])


@given(st.binary(max_size=300))
@example(b"\x97\xa8\x00\x00\x00\x00\x00\x00\x00\x80")  # a text that is no UTF-8
def test_any_entry_is_used_or_not(forged: bytes) -> None:
    world = World()
    world.load(Reply.of(b"real", Cache_Control="max-age=60"))
    (key,) = world.kept
    world.kept[key] = forged
    assert world.load()[1] == b"real"
