"""Cookies: what a header says, who may set what, what goes where; by the sections of RFC 6265bis (draft 22)."""

from __future__ import annotations

import asyncio
import email.utils
import socket
from typing import Any

import ada_url
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.request_server.conftest import Keeper
from tests.request_server.peers import led_to, peer, read_head

from cloister.interfaces.cookies import MAX_COOKIES, MAX_PAIR, Cookie, CookieList, SameSite
from cloister.interfaces.fetch import Destination, Fetch
from cloister.interfaces.request_server import DocumentAllowed
from cloister.jar import MAX_AGE, MAX_PER_DOMAIN, Jar, is_for
from cloister.request_server.cookies import SetCookie, date, parse, received

NOW = 1_700_000_000.0
STRICT, LAX, NONE = SameSite


# ── 5.6: what a header says ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("header", "name", "value"),
    [
        (b"a=b", "a", "b"),
        (b" \t a \t= \tb c\t ", "a", "b c"),
        (b'a="b; Path=/', "a", '"b'),
        (b"a=b=c", "a", "b=c"),
        (b"a=", "a", ""),
        (b"=a", "", "a"),
        (b"a", "", "a"),
        (b"a b", "", "a b"),
        (b"a=b,c=d", "a", "b,c=d"),
        (b"a=b;;;", "a", "b"),
        ("ä=ö".encode(), "Ã¤", "Ã¶"),
        (b"a=\xff", "a", "\xff"),
        (b"a=b\tc", "a", "b\tc"),
        (b"a" * 4000 + b"=" + b"b" * 96, "a" * 4000, "b" * 96),
    ],
)
def test_a_name_and_a_value(header: bytes, name: str, value: str) -> None:
    said = parse(header, NOW)
    assert said is not None
    assert (said.name, said.value) == (name, value)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b";",
        b"=",
        b" = ",
        b"; Path=/",
        b"a=b\0",
        b"a\x01=b",
        b"a=b; Path=/\x7f",
        b"a=b\r\nSet-Cookie: c=d",
        b"a=b\x1f",
        b"a" * 4000 + b"=" + b"b" * 97,
    ],
)
def test_what_is_no_cookie(header: bytes) -> None:
    assert parse(header, NOW) is None


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        (b"", {}),
        (b"; Secure; HttpOnly", {"secure": True, "http_only": True}),
        (b";sEcUrE=no;HTTPONLY=", {"secure": True, "http_only": True}),
        (b"; Domain=.Example.ORG", {"domain": "example.org"}),
        (b"; Domain=a.example; domain=", {"domain": ""}),
        (b"; Domain=..a.example", {"domain": ".a.example"}),
        (b"; Path=/a; Path=/b", {"path": "/b"}),
        (b"; Path=/a; Path=b", {"path": None}),
        (b"; Path=/a; Path=", {"path": None}),
        (b"; Path=/" + b"a" * 1023, {"path": "/" + "a" * 1023}),
        (b"; Path=/b; Path=/" + b"a" * 1024, {"path": "/b"}),
        (b"; SameSite=strict", {"same_site": STRICT}),
        (b"; SameSite=None; SameSite=oops", {"same_site": LAX}),
        (b"; SAMESITE=nOnE", {"same_site": NONE}),
        (b"; Partitioned", {"partitioned": True}),
        (b"; Max-Age=60", {"expires": int(NOW) + 60}),
        (b"; Max-Age=0", {"expires": 0}),
        (b"; Max-Age=-1", {"expires": 0}),
        (b"; Max-Age=60; Max-Age=", {"expires": int(NOW) + 60}),
        (b"; Max-Age=60; Max-Age=1x", {"expires": int(NOW) + 60}),
        (b"; Max-Age=+60", {}),
        (b"; Max-Age=\xb2", {}),
        (b"; Max-Age=" + b"9" * 1024, {"expires": int(NOW) + MAX_AGE}),
        (b"; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", {"expires": int(NOW) + 60}),
        (b"; Expires=Thu, 01 Jan 1970 00:00:01 GMT", {"expires": 1}),
        (b"; Expires=Mon, 01 Jan 1601 00:00:00 GMT", {"expires": 0}),
        (b"; Expires=Fri, 31 Dec 9999 23:59:59 GMT", {"expires": int(NOW) + MAX_AGE}),
        (b"; Expires=never", {}),
        (b"; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Expires=never", {"expires": 1}),
        (b"; Unknown=x; Version=1", {}),
    ],
)
def test_attributes(attributes: bytes, said: dict[str, Any]) -> None:
    assert parse(b"a=b" + attributes, NOW) == SetCookie("a", "b", **said)


@given(st.one_of(st.binary(max_size=300), st.text("=;, \tab:-/.019", max_size=200).map(str.encode)))
def test_whatever_is_read_fits_the_message_to_the_browser(header: bytes) -> None:
    said = parse(header + b"; Path=/", NOW)
    if said is not None:
        url = ada_url.URL("https://www.example.org/a/b")
        cookie = received(said, url, Jar(), NOW, is_document=True, is_cross_site=False)
        if cookie is not None:
            sent = msgspec.msgpack.encode((cookie,))
            assert msgspec.msgpack.decode(sent, type=CookieList) == (cookie,)


# ── 5.1.1: dates ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "08:49:37 6 november 1994",
        "1994 06 Nov 08:49:37",
        "06 Nov 1994 08:49:37 +0100",
        "\t/06/Nov/1994;08:49:37.123",
        "6th Nov 1994x 8:49:37Z",
    ],
)
def test_a_date_is_read_however_it_is_written(text: str) -> None:
    assert date(text) == 784111777


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "Sun, 06 Nov 1994",
        "06 Nov 08:49:37",
        "06 1994 08:49:37",
        "Nov 1994 08:49",
        "31 Feb 2020 00:00:00",
        "00 Jan 2020 00:00:00",
        "01 Jan 2020 24:00:00",
        "01 Jan 2020 00:60:00",
        "01 Jan 2020 00:00:60",
        "01 Jan 1600 00:00:00",
        "01 Jan 20200 00:00:00",
        "01 Jan 2020 000:00:00",
        "١ Jan 2020 00:00:00",
    ],
)
def test_what_is_no_date(text: str) -> None:
    assert date(text) is None


@pytest.mark.parametrize(("year", "full"), [("69", 2069), ("70", 1970), ("99", 1999), ("00", 2000)])
def test_two_digits_of_a_year(year: str, full: int) -> None:
    assert date(f"01 Jan {year} 00:00:00") == date(f"01 Jan {full} 00:00:00") is not None


@given(st.datetimes(), st.sampled_from(["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%Y %H:%M:%S GMT"]))
def test_python_reads_the_same(when: Any, form: str) -> None:
    if when.year >= 1970:
        text = when.strftime(form)
        assert date(text) == int(email.utils.parsedate_to_datetime(text).timestamp())


# ── 5.7: who may set what ────────────────────────────────────────────────────────────────────────────────────────


def stored(
    header: str, url: str = "https://www.example.org/a/b?c", *there: Cookie, **given: bool
) -> Cookie | None:
    said = parse(header.encode(), NOW)
    assert said is not None
    jar = Jar()
    jar.put(there, NOW)
    kind = {"is_document": True, "is_cross_site": False} | given
    return received(said, ada_url.URL(url), jar, NOW, **kind)


def cookie(
    name: str = "a", value: str = "b", domain: str = "www.example.org", path: str = "/", **given: Any
) -> Cookie:
    other: dict[str, Any] = {
        "host_only": True,
        "secure": False,
        "http_only": False,
        "same_site": LAX,
        "expires": None,
        "created": int(NOW * 1e9),
    }
    return Cookie(name, value, domain, path, **(other | given))


def test_a_cookie_without_attributes_is_its_hosts_and_its_folders() -> None:
    assert stored("a=b") == cookie(path="/a")


@pytest.mark.parametrize(
    ("header", "url", "domain", "host_only"),
    [
        ("a=b; Domain=example.org", "https://www.example.org/", "example.org", False),
        ("a=b; Domain=.WWW.example.org", "https://www.example.org/", "www.example.org", False),
        ("a=b; Domain=", "https://www.example.org/", "www.example.org", True),
        ("a=b; Domain=github.io", "https://github.io/", "github.io", True),
        ("a=b; Domain=localhost", "http://localhost/", "localhost", True),
        ("a=b; Domain=a.localhost", "http://x.a.localhost/", "a.localhost", False),
        ("a=b; Domain=127.0.0.1", "http://127.0.0.1/", "127.0.0.1", False),
        ("a=b; Domain=[::1]", "http://[::1]/", "[::1]", False),
        ("a=b", "https://co.uk/", "co.uk", True),
    ],
)
def test_the_domain_is_the_hosts_or_above_it(header: str, url: str, domain: str, host_only: bool) -> None:
    made = stored(header, url)
    assert made is not None
    assert (made.domain, made.host_only) == (domain, host_only)


@pytest.mark.parametrize(
    ("header", "url"),
    [
        ("a=b; Domain=example.com", "https://www.example.org/"),
        ("a=b; Domain=sub.www.example.org", "https://www.example.org/"),
        ("a=b; Domain=xample.org", "https://example.org/"),
        ("a=b; Domain=org", "https://example.org/"),
        ("a=b; Domain=co.uk", "https://example.co.uk/"),
        ("a=b; Domain=github.io", "https://me.github.io/"),
        ("a=b; Domain=ck", "https://a.b.ck/"),
        ("a=b; Domain=b.ck", "https://a.b.ck/"),
        ("a=b; Domain=example.org.", "https://example.org/"),
        ("a=b; Domain=0.0.1", "http://127.0.0.1/"),
        ("a=b; Domain=exämple.org", "https://xn--exmple-cua.org/"),
        ("a=b; Domain=example.org/", "https://example.org/"),
        ("a=b; Domain=example.org:443", "https://example.org/"),
    ],
)
def test_no_cookie_for_others(header: str, url: str) -> None:
    assert stored(header, url) is None


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://a.b/", "/"),
        ("https://a.b/c", "/"),
        ("https://a.b/c/", "/c"),
        ("https://a.b/c/d?e/f#/", "/c"),
    ],
)
def test_the_default_path(url: str, path: str) -> None:
    made = stored("a=b", url)
    assert made is not None
    assert made.path == path


SECURE, OPEN = "https://www.example.org/a/b", "http://www.example.org/a/b"


@pytest.mark.parametrize(
    ("header", "url", "is_kept"),
    [
        ("a=b; Secure", SECURE, True),
        ("a=b; Secure", OPEN, False),
        ("a=b; Secure", "http://localhost/", True),
        ("a=b; Secure", "http://127.0.0.1:8000/", True),
        ("a=b; Secure", "http://127.0.0.1.example/", False),
        ("a=b; SameSite=None", SECURE, False),
        ("a=b; SameSite=None; Secure", SECURE, True),
        ("a=b; Partitioned", SECURE, False),
        ("a=b; Partitioned; Secure", SECURE, True),
        ("__Secure-a=b", SECURE, False),
        ("__Secure-a=b; Secure; Domain=example.org", SECURE, True),
        ("__sEcUrE-a=b", SECURE, False),
        ("__Host-a=b; Secure; Path=/", SECURE, True),
        ("__Host-a=b; Secure", SECURE, False),
        ("__Host-a=b; Secure", "https://www.example.org/", False),
        ("__Host-a=b; Path=/", SECURE, False),
        ("__Host-a=b; Secure; Path=/a", SECURE, False),
        ("__Host-a=b; Secure; Path=/; Domain=www.example.org", SECURE, False),
        ("__hOsT-a=b; Secure; Path=/; Domain=example.org", SECURE, False),
        ("__Host-a=b; Secure; Path=/", OPEN, False),
        ("=__Host-a=b; Secure; Path=/", SECURE, False),
        ("=__Secure-a=b; Secure", SECURE, False),
        ("__hoST-a; Secure; Path=/", SECURE, False),
        ("=a=b", SECURE, True),
    ],
)
def test_promises_of_a_name_and_of_https(header: str, url: str, is_kept: bool) -> None:
    assert (stored(header, url) is not None) is is_kept


@pytest.mark.parametrize(
    ("header", "url", "is_kept"),
    [
        ("a=evil; Path=/login", OPEN, False),
        ("a=evil; Path=/login/en", OPEN, False),
        ("a=evil; Path=/", OPEN, True),
        ("a=evil; Path=/logins", OPEN, True),
        ("c=evil; Path=/login", OPEN, True),
        ("a=evil; Path=/login; Domain=example.org", OPEN, False),
        ("a=evil; Path=/login", "http://sub.www.example.org/", False),
        ("a=evil; Path=/login", "http://other.example.org/", True),
        ("a=evil; Path=/login", SECURE, True),
    ],
)
def test_what_came_in_the_open_covers_nothing_that_came_by_https(
    header: str, url: str, is_kept: bool
) -> None:
    there = cookie(path="/login", secure=True)
    assert (stored(header, url, there) is not None) is is_kept


def test_nor_does_one_of_a_host_cover_that_of_its_domain() -> None:
    there = cookie(domain="example.org", host_only=False, secure=True)
    assert stored("a=evil; Path=/", OPEN, there) is None


@pytest.mark.parametrize(
    ("header", "is_document", "is_kept"),
    [
        ("a=b", False, False),
        ("a=b; SameSite=Lax; Secure", False, False),
        ("a=b; SameSite=Strict; Secure", False, False),
        ("a=b; SameSite=None; Secure", False, True),
        ("a=b", True, True),
        ("a=b; SameSite=Strict", True, True),
    ],
)
def test_what_another_site_has_a_hand_in_sets_only_what_says_so(
    header: str, is_document: bool, is_kept: bool
) -> None:
    assert (stored(header, is_document=is_document, is_cross_site=True) is not None) is is_kept


# ── 5.7, from step 23: what is kept ──────────────────────────────────────────────────────────────────────────────


def kept(*cookies: Cookie, now: float = NOW) -> list[str]:
    jar = Jar()
    jar.put(cookies, now)
    return [f"{each.name}={each.value}" for each in jar]


def test_one_of_the_same_name_domain_and_path_takes_the_place_and_the_age() -> None:
    old, other = cookie(created=1), cookie(path="/other")
    assert kept(old, other, cookie(value="new", created=2)) == ["a=b", "a=new"]
    jar = Jar()
    jar.put([old, cookie(value="new", created=2)], NOW)
    assert [each.created for each in jar] == [1]
    assert len(kept(cookie(), cookie(host_only=False), cookie(domain="example.org"), cookie(name="A"))) == 4


def test_one_that_is_over_takes_the_other_along() -> None:
    assert kept(cookie(), cookie(expires=int(NOW))) == []
    assert kept(cookie(), cookie(name="c", expires=0)) == ["a=b"]
    jar = Jar()
    jar.put([cookie(expires=int(NOW) + 5)], NOW)
    jar.expire(NOW + 4)
    assert len(jar) == 1
    jar.expire(NOW + 5)
    assert len(jar) == 0


def test_nothing_is_kept_for_longer_than_400_days() -> None:
    jar = Jar()
    jar.put([cookie(expires=2**42)], NOW)
    assert [each.expires for each in jar] == [int(NOW) + MAX_AGE]


def test_too_many_of_a_domain_cost_it_its_open_and_oldest_ones() -> None:
    secure = [cookie(f"s{number}", "", secure=True) for number in range(MAX_PER_DOMAIN - 1)]
    others = [cookie("other", "", domain="example.com")]
    names = kept(*others, cookie("first", ""), *secure, cookie("second", ""))
    assert len(names) == MAX_PER_DOMAIN + 1
    assert "first=" not in names
    assert {"other=", "second=", "s0="} <= set(names)
    names = kept(*secure, cookie("t", "", secure=True), cookie("u", "", secure=True))
    assert names[0] == "s1="


def test_too_many_of_all_cost_the_oldest() -> None:
    many = [cookie("a", "", domain=f"d{number}.example", secure=True) for number in range(MAX_COOKIES + 5)]
    jar = Jar()
    jar.put(many, NOW)
    assert len(jar) == MAX_COOKIES
    assert next(iter(jar)).domain == "d5.example"


def test_a_pair_that_is_too_long_is_no_cookie_in_any_message() -> None:
    with pytest.raises(ValueError, match="4096"):
        cookie("a" * 4000, "b" * 97)
    sent = msgspec.msgpack.encode([["a" * 4000, "b" * 97, *msgspec.structs.astuple(cookie())[2:]]])
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(sent, type=CookieList)
    assert MAX_PAIR == 4096


# ── 5.8: what goes where ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "asked", "goes"),
    [
        ("/", "/", True),
        ("/", "/a/b", True),
        ("/a", "/a", True),
        ("/a", "/a/", True),
        ("/a", "/a/b", True),
        ("/a/", "/a/b", True),
        ("/a", "/ab", False),
        ("/a/", "/a", False),
        ("/a", "/A", False),
        ("/a", "/", False),
    ],
)
def test_paths(path: str, asked: str, goes: bool) -> None:
    assert is_for(cookie(path=path), "www.example.org", asked, is_secure=False) is goes


def test_hosts_and_https() -> None:
    def goes(host: str, *, is_secure: bool = True, **given: Any) -> bool:
        return is_for(cookie(domain="example.org", **given), host, "/", is_secure=is_secure)

    assert goes("example.org")
    assert not goes("www.example.org")
    assert goes("www.example.org", host_only=False)
    assert not goes("wwwexample.org", host_only=False)
    assert not goes("org", host_only=False)
    assert goes("example.org", secure=True)
    assert not goes("example.org", secure=True, is_secure=False)


def header_of(keeper: Keeper, url: str, method: str = "GET", **given: bool) -> bytes | None:
    kind = {"is_document": False, "is_cross_site": False} | given
    return asyncio.run(keeper.of_document.header(ada_url.URL(url), method, **kind))


def test_longer_paths_come_first_and_then_older_ones() -> None:
    keeper = Keeper(
        "https://example.org",
        cookie("new", "1", created=2),
        cookie("old", "2", created=1),
        cookie("deep", "3", path="/a", created=3),
        cookie("", "4", created=4),
        cookie("empty", "", created=5),
        cookie("\xc3\xa4", "\xff", created=6),
        now=NOW,
    )
    expected = b"deep=3; old=2; new=1; 4; empty=; \xc3\xa4=\xff"
    assert header_of(keeper, "https://www.example.org/a") == expected
    assert header_of(keeper, "https://example.org/") is None


def test_what_is_over_is_not_sent() -> None:
    keeper = Keeper("https://example.org", cookie(expires=int(NOW) + 1), now=NOW)
    assert header_of(keeper, "https://www.example.org/") == b"a=b"
    keeper = Keeper("https://example.org", cookie(expires=int(NOW)), now=NOW)
    assert header_of(keeper, "https://www.example.org/") is None


@pytest.mark.parametrize(
    ("is_document", "method", "is_cross_site", "names"),
    [
        (True, "GET", False, b"strict=; lax=; none="),
        (False, "POST", False, b"strict=; lax=; none="),
        (True, "GET", True, b"lax=; none="),
        (True, "HEAD", True, b"lax=; none="),
        (True, "POST", True, b"none="),
        (False, "GET", True, b"none="),
    ],
)
def test_same_site(is_document: bool, method: str, is_cross_site: bool, names: bytes) -> None:
    all_three = [cookie(each.value.lower(), "", same_site=each, secure=True) for each in SameSite]
    keeper = Keeper("https://example.org", *all_three, now=NOW)
    url = "https://www.example.org/"
    assert header_of(keeper, url, method, is_document=is_document, is_cross_site=is_cross_site) == names


# ── a page load ──────────────────────────────────────────────────────────────────────────────────────────────────


class Site:
    """Sets ``set`` on each path, sends /go/… on to where the rest of the path says; ``seen`` is what came."""

    def __init__(self, **set_cookies: list[str]) -> None:
        self.seen: list[tuple[str, str]] = []
        self._set = {f"/{path}": cookies for path, cookies in set_cookies.items()}

    def serve(self, connection: socket.socket, _number: int) -> None:
        while head := read_head(connection):
            headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            path = head.split()[1].decode()
            where = headers[b"Host"].decode() + path
            self.seen.append((where, headers.get(b"Cookie", b"-").decode()))
            answer = "200 OK\r\n"
            if path.startswith("/go/"):
                answer = f"302 Found\r\nLocation: http://{path[4:]}\r\n"
            answer += "".join(f"Set-Cookie: {each}\r\n" for each in self._set.get(path, []))
            connection.sendall(f"HTTP/1.1 {answer}Content-Length: 2\r\n\r\nok".encode())

    def visit(self, keeper: Keeper, *asked: tuple[str, Destination], **allowed: Any) -> list[tuple[str, str]]:
        async def allow(_url: str, _redirects: int) -> DocumentAllowed:
            return DocumentAllowed(**allowed)

        async def run() -> None:
            async with led_to(port, announce=allow, keeper=keeper) as made:
                for host_and_path, destination in asked:
                    await made.fetch(Fetch(f"http://{host_and_path}", destination))

        with peer(self.serve) as port:
            asyncio.run(run())
        return self.seen


HOME, IMAGE = Destination.DOCUMENT, Destination.IMAGE


def test_what_a_document_sets_goes_with_what_is_on_it_and_the_browser_knows_by_then() -> None:
    site, keeper = Site(**{"": ["a=1", "b=2; Path=/x", "c=3; Domain=org"], "x": ["a=; Max-Age=0"]}), Keeper()
    seen = site.visit(keeper, ("a.example/", HOME), ("a.example/x", IMAGE), ("a.example/y", IMAGE))
    assert seen == [("a.example/", "-"), ("a.example/x", "b=2; a=1"), ("a.example/y", "-")]
    assert [(each.name, each.expires) for each in keeper.told] == [("a", None), ("b", None), ("a", 0)]
    assert keeper.asked == 0  # the browser had said that there is nothing


def test_a_redirect_sets_cookies_for_where_it_leads() -> None:
    site, keeper = (
        Site(**{"go/www.a.example/": ["a=1; Domain=a.example; Path=/", "b=2"]}),
        Keeper("http://a.example"),
    )
    assert site.visit(keeper, ("a.example/go/www.a.example/", HOME), has_cookies=True) == [
        ("a.example/go/www.a.example/", "-"),
        ("www.a.example/", "a=1"),
    ]
    assert keeper.asked == 1


def test_another_site_gets_what_it_set_here_and_only_what_says_so() -> None:
    known = [
        cookie("lax", "", "c.example"),
        cookie("none", "", "c.example", same_site=NONE),
        cookie("mine", "", "a.example"),
    ]
    site, keeper = Site(i=["new=1", "new2=2; SameSite=None"]), Keeper("http://a.example", *known)
    seen = site.visit(keeper, ("a.example/", HOME), ("c.example/i", IMAGE), has_cookies=True)
    assert seen == [("a.example/", "mine="), ("c.example/i", "none=")]
    assert keeper.told == []  # SameSite=None needs https
    assert keeper.asked == 1


def test_who_was_sent_back_by_another_site_counts_as_its() -> None:
    known = [cookie("lax", "", "a.example"), cookie("none", "", "a.example", same_site=NONE)]
    site, keeper = Site(), Keeper("http://a.example", *known)
    seen = site.visit(
        keeper, ("a.example/", HOME), ("a.example/go/c.example/go/a.example/i", IMAGE), has_cookies=True
    )
    assert seen == [
        ("a.example/", "lax=; none="),
        ("a.example/go/c.example/go/a.example/i", "lax=; none="),
        ("c.example/go/a.example/i", "-"),
        ("a.example/i", "none="),
    ]


def test_a_document_that_another_site_led_to_gets_no_strict_cookie() -> None:
    known = [cookie("lax", "", "a.example"), cookie("strict", "", "a.example", same_site=STRICT)]
    asked = ("a.example/", HOME), ("a.example/i", IMAGE)
    seen = Site().visit(Keeper("http://a.example", *known), *asked, has_cookies=True, is_cross_site=True)
    assert seen == [("a.example/", "lax="), ("a.example/i", "lax=; strict=")]


def test_who_has_no_document_asks_whose_it_is() -> None:
    keeper = Keeper("http://a.example", cookie("lax", "", "a.example"))
    seen = Site(i=["new=1"]).visit(keeper, ("a.example/i", IMAGE), ("a.example/j", IMAGE))
    assert seen == [("a.example/i", "lax="), ("a.example/j", "lax=; new=1")]
    assert keeper.asked == 1
    keeper = Keeper("")
    assert Site(i=["new=1"]).visit(keeper, ("a.example/i", IMAGE), ("a.example/i", IMAGE)) == [
        ("a.example/i", "-"),
        ("a.example/i", "-"),
    ]
    assert keeper.told == []


def test_what_others_changed_is_asked_for_again_once_for_all_that_wait() -> None:
    keeper = Keeper("http://a.example", cookie("old", "", "a.example"))
    of_document, url = keeper.of_document, ada_url.URL("http://a.example/")

    async def header() -> bytes | None:
        return await of_document.header(url, "GET", is_document=True, is_cross_site=False)

    async def run() -> None:
        assert await header() == b"old="
        keeper.cookies = (cookie("new", "", "a.example"),)
        assert await header() == b"old="
        of_document.forget()
        assert set(await asyncio.gather(*(header() for _ in range(5)))) == {b"new="}
        assert keeper.asked == 2
        of_document.forget()
        asking = asyncio.create_task(header())
        await asyncio.sleep(0)  # it has asked, and the answer is on its way
        keeper.cookies = ()
        of_document.forget()
        assert await asking is None
        assert keeper.asked == 4

    asyncio.run(run())


def test_the_answer_to_a_wrong_password_sets_cookies_too() -> None:
    def serve(connection: socket.socket, _number: int) -> None:
        while head := read_head(connection):
            seen.append(head)
            status = b"401 No\r\nWWW-Authenticate: Basic\r\nSet-Cookie: a=1" if len(seen) == 1 else b"200 OK"
            connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

    async def allow(_url: str, _redirects: int) -> DocumentAllowed:
        from cloister.interfaces.request_server import Credentials

        return DocumentAllowed(Credentials("me", "secret"))

    async def run(port: int) -> None:
        async with led_to(port, announce=allow) as made:
            await made.fetch(Fetch("http://a.example/", HOME))

    seen: list[bytes] = []
    with peer(serve) as port:
        asyncio.run(run(port))
    assert b"Cookie: a=1" in seen[1]
