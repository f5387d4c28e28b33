"""What a page may ask of another origin and have of its answer, rule by rule (Fetch standard)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import CredentialsMode, Destination, Fetch, Mode, ReferrerPolicy
from cloister.interfaces.request_server import Options
from cloister.request_server import cors
from cloister.request_server.cors import Page, entered
from cloister.request_server.exchange import Headers
from cloister.request_server.headers import metadata
from cloister.request_server.preflight import Preflights, question
from cloister.request_server.redirects import follow
from cloister.request_server.step import OPAQUE_ORIGIN, Relation, Step, Tainting
from cloister.request_server.urls import origin, parse

HOME = "https://page.example"
PAGE = Page(parse(f"{HOME}/a/page?q"))
OWN, OTHER, THIRD = f"{HOME}/x", "https://other.example/x", "https://third.example/x"


def first(
    url: str = OTHER,
    mode: Mode = Mode.CORS,
    method: str = "GET",
    headers: tuple[tuple[str, str], ...] = (),
    credentials: CredentialsMode = CredentialsMode.SAME_ORIGIN,
    origin: str = HOME,
    policy: ReferrerPolicy = ReferrerPolicy.STRICT_ORIGIN_WHEN_CROSS_ORIGIN,
) -> Step:
    own = [(name.encode(), value.encode()) for name, value in headers]
    return entered(Step(parse(url), method, own, b"", policy, origin, mode, credentials))


def led(step: Step, *locations: str, status: int = 307) -> Step:
    """``step``, redirected."""
    for location in locations:
        further = follow(step, status, [(b"Location", location.encode())])
        assert further is not None
        step = entered(further)
    return step


def check(step: Step, **said: str) -> str | None:
    """What comes of an answer with these headers."""
    return failure(lambda: cors.check_answer(step, access_control(said)))


def access_control(said: dict[str, str]) -> Headers:
    return [
        (f"access-control-{name.replace('_', '-')}".encode(), value.encode()) for name, value in said.items()
    ]


def failure(call: Callable[[], object]) -> str | None:
    """The code that ``call`` fails with."""
    try:
        call()
    except RequestFailed as error:
        return error.code
    return None


# ── who asks ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("document", "is_opaque", "known"),
    [
        (f"{HOME}/a", False, HOME),
        (f"{HOME}:443/a", False, HOME),
        (f"{HOME}:8443/a", False, f"{HOME}:8443"),
        (f"{HOME}/a", True, OPAQUE_ORIGIN),
        ("", False, OPAQUE_ORIGIN),
        ("about:blank", False, OPAQUE_ORIGIN),
        ("http://", False, OPAQUE_ORIGIN),
        ("file:///etc/passwd", False, OPAQUE_ORIGIN),
    ],
)
def test_a_page_is_whose_the_browser_says(document: str, is_opaque: bool, known: str) -> None:
    assert Page.of(Options("x", document=document, is_opaque=is_opaque)).origin == known


def refusal(page: Page = PAGE, method: str = "GET", **fetch: object) -> str:
    made = Fetch(**{"url": OTHER, "destination": Destination.IMAGE, "method": method, **fetch})  # type: ignore[arg-type]
    own = [(name.encode(), value.encode()) for name, value in made.headers]
    try:
        cors.check_request(made, page, made.method, own)
    except RequestFailed as error:
        return f"{error.code}: {error.detail}"
    return ""


@pytest.mark.parametrize(
    "referrer", ["", f"{HOME}/", f"{HOME}/another?page#x", "about:blank", "file:///x", "nonsense", "https://"]
)
def test_a_page_may_say_where_on_its_origin_it_is(referrer: str) -> None:
    assert not refusal(referrer=referrer)


@pytest.mark.parametrize(
    "referrer",
    [OTHER, "http://page.example/", f"{HOME}:8443/", "https://www.page.example/", "https://page.example./",
     "https://page.example@other.example/", "https:/\\other.example/"],
)  # fmt: skip
def test_a_page_cannot_say_that_it_is_another(referrer: str) -> None:
    assert "referrer" in refusal(referrer=referrer)


def test_a_page_of_no_origin_cannot_say_that_it_has_one_but_where_it_was_said_to_be() -> None:
    assert refusal(Page(), referrer=f"{HOME}/")
    assert not refusal(Page(PAGE.document, is_opaque=True), referrer=f"{HOME}/")
    assert refusal(Page(PAGE.document, is_opaque=True), referrer=OTHER)


@pytest.mark.parametrize(
    ("destination", "modes"),
    [
        (Destination.DOCUMENT, set(Mode)),
        (Destination.FONT, {Mode.CORS, Mode.SAME_ORIGIN}),
        *(
            (other, {Mode.NO_CORS, Mode.CORS, Mode.SAME_ORIGIN})
            for other in (Destination.IMAGE, Destination.STYLE, Destination.SCRIPT, Destination.EMPTY)
        ),
    ],
)
def test_what_is_asked_for_by_which_mode(destination: Destination, modes: set[Mode]) -> None:
    assert {mode for mode in Mode if not refusal(destination=destination, mode=mode)} == modes


def test_a_document_is_navigated_to_whatever_is_said() -> None:
    asked = [cors.mode_of(Fetch(OTHER, Destination.DOCUMENT, mode=mode)) for mode in Mode]
    assert set(asked) == {Mode.NAVIGATE}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "patch", "X"])
def test_without_cors_a_page_uses_the_methods_of_forms(method: str) -> None:
    assert refusal(method=method) == f"bad_request: {method} needs the mode cors"
    assert not refusal(method=method, mode=Mode.CORS)


SAFE = [
    ("Accept", "text/html, */*;q=0.1"),
    ("accept-language", "en, de;q=0.5"),
    ("Content-Language", "en"),
    ("content-type", "text/plain"),
    ("Content-Type", "TEXT/Plain; charset=utf-8"),
    ("Content-Type", "multipart/form-data; boundary=x"),
    ("Content-Type", "application/x-www-form-urlencoded"),
]
UNSAFE = [
    ("X-Requested-With", "x"),
    ("Authorization", "Bearer x"),
    ("If-None-Match", "x"),
    ("Content-Type", "application/json"),
    ("Content-Type", ""),
    ("Content-Type", "text/plain, application/json"),
    ("Content-Type", "text/plain; x=(y)"),
    ("Accept", "a" * 129),
    ("Accept", '"a"'),
    ("Accept", "{}"),
    ("Accept-Language", "en/us"),
    ("Range", "bytes=-1"),
    ("Range", "bytes=0-1,2-3"),
    ("Range", "lines=1-2"),
]


@pytest.mark.parametrize("header", SAFE)
def test_what_any_form_can_say_is_safe(header: tuple[str, str]) -> None:
    assert not refusal(headers=(header,))
    assert not Preflights().needs(first(headers=(header,)))


@pytest.mark.parametrize("header", UNSAFE)
def test_what_no_form_can_say_needs_agreement(header: tuple[str, str]) -> None:
    assert "needs the mode cors" in refusal(headers=(header,))
    assert Preflights().needs(first(headers=(header,)))


def test_a_range_is_safe_with_cors_only() -> None:
    ranged = (("Range", "bytes=5-"),)
    assert refusal(headers=ranged)
    assert not Preflights().needs(first(headers=ranged))


def test_many_safe_headers_together_are_not() -> None:
    many = tuple(("Accept", "a" * 128) for _ in range(9))
    assert cors.unsafe_headers([(b"Accept", b"a" * 128)] * 8) == []
    assert "accept" in refusal(headers=many)


# ── on the way ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mode", "way", "tainting"),
    [
        (Mode.NO_CORS, [OWN], Tainting.BASIC),
        (Mode.NO_CORS, [OTHER], Tainting.OPAQUE),
        (Mode.NO_CORS, [OWN, OTHER], Tainting.OPAQUE),
        (Mode.NO_CORS, [OTHER, OWN], Tainting.OPAQUE),
        (Mode.NO_CORS, [OWN, OTHER, OWN], Tainting.OPAQUE),
        (Mode.NO_CORS, [OWN, OWN], Tainting.BASIC),
        (Mode.CORS, [OWN], Tainting.BASIC),
        (Mode.CORS, [OTHER], Tainting.CORS),
        (Mode.CORS, [OWN, OTHER, OWN], Tainting.CORS),
        (Mode.CORS, ["http://page.example/x"], Tainting.CORS),
        (Mode.CORS, [f"{HOME}:8443/"], Tainting.CORS),
        (Mode.CORS, ["https://www.page.example/"], Tainting.CORS),
        (Mode.SAME_ORIGIN, [OWN, OWN], Tainting.BASIC),
        (Mode.NAVIGATE, [OTHER, THIRD], Tainting.BASIC),
    ],
)
def test_what_another_origin_had_a_hand_in_stays_anothers(
    mode: Mode, way: list[str], tainting: Tainting
) -> None:
    assert led(first(way[0], mode), *way[1:]).tainting is tainting


@pytest.mark.parametrize("way", [[OTHER], [OWN, OTHER], [f"{HOME}:8443/"], ["http://page.example/"]])
def test_same_origin_means_that(way: list[str]) -> None:
    with pytest.raises(RequestFailed) as caught:
        led(first(way[0], Mode.SAME_ORIGIN), *way[1:])
    assert caught.value.code == FailureCode.CORS_REFUSED


@pytest.mark.parametrize("mode", [Mode.NO_CORS, Mode.CORS])
def test_to_a_page_without_an_origin_all_is_anothers(mode: Mode) -> None:
    assert first(OWN, mode, origin=OPAQUE_ORIGIN).tainting is not Tainting.BASIC
    with pytest.raises(RequestFailed):
        first(OWN, Mode.SAME_ORIGIN, origin=OPAQUE_ORIGIN)


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ([OWN], None),
        ([OTHER], HOME),
        ([OWN, OTHER], HOME),
        ([OTHER, OTHER], HOME),
        ([OTHER, THIRD], "null"),
        ([OTHER, OWN], "null"),
        ([OWN, OTHER, OWN], "null"),
    ],
)
def test_another_origin_is_told_whose_page_asks(way: list[str], told: str | None) -> None:
    assert cors.origin_header(led(first(way[0]), *way[1:])) == told


@pytest.mark.parametrize(
    ("url", "mode", "policy", "told"),
    [
        (OWN, Mode.CORS, "no-referrer", HOME),
        (OWN, Mode.NO_CORS, "no-referrer", "null"),
        (OTHER, Mode.NO_CORS, "no-referrer", "null"),
        (OTHER, Mode.NO_CORS, "strict-origin-when-cross-origin", HOME),
        ("http://other.example/", Mode.NO_CORS, "strict-origin-when-cross-origin", "null"),
        ("http://other.example/", Mode.NO_CORS, "strict-origin", "null"),
        ("http://other.example/", Mode.NO_CORS, "no-referrer-when-downgrade", "null"),
        ("http://other.example/", Mode.NO_CORS, "unsafe-url", HOME),
        (OTHER, Mode.NO_CORS, "same-origin", "null"),
        (OWN, Mode.NO_CORS, "same-origin", HOME),
    ],
)
def test_who_is_asked_to_change_something_is_told_too(url: str, mode: Mode, policy: str, told: str) -> None:
    step = first(url, mode, "POST", policy=ReferrerPolicy(policy))
    assert cors.origin_header(step) == told
    assert cors.origin_header(msgspec.structs.replace(step, method="GET")) is None


@pytest.mark.parametrize(
    ("credentials", "way", "are_sent"),
    [
        (CredentialsMode.OMIT, [OWN], False),
        (CredentialsMode.OMIT, [OTHER], False),
        (CredentialsMode.SAME_ORIGIN, [OWN], True),
        (CredentialsMode.SAME_ORIGIN, [OTHER], False),
        (CredentialsMode.SAME_ORIGIN, [OTHER, OWN], False),
        (CredentialsMode.INCLUDE, [OTHER], True),
    ],
)
def test_who_is_told_who_the_user_is(credentials: CredentialsMode, way: list[str], are_sent: bool) -> None:
    assert cors.sends_credentials(led(first(way[0], credentials=credentials), *way[1:])) is are_sent


# ── what is answered ─────────────────────────────────────────────────────────────────────────────────────────────

REFUSED = FailureCode.CORS_REFUSED


@pytest.mark.parametrize(
    ("said", "plain", "with_credentials"),
    [
        ({}, REFUSED, REFUSED),
        ({"allow_origin": ""}, REFUSED, REFUSED),
        ({"allow_origin": "*"}, None, REFUSED),
        ({"allow_origin": "*", "allow_credentials": "true"}, None, REFUSED),
        ({"allow_origin": HOME}, None, REFUSED),
        ({"allow_origin": HOME, "allow_credentials": "true"}, None, None),
        ({"allow_origin": HOME, "allow_credentials": "True"}, None, REFUSED),
        ({"allow_origin": HOME, "allow_credentials": "1"}, None, REFUSED),
        ({"allow_origin": "null", "allow_credentials": "true"}, REFUSED, REFUSED),
        ({"allow_origin": HOME + "/"}, REFUSED, REFUSED),
        ({"allow_origin": HOME + ":443"}, REFUSED, REFUSED),
        ({"allow_origin": HOME.upper()}, REFUSED, REFUSED),
        ({"allow_origin": "page.example"}, REFUSED, REFUSED),
        ({"allow_origin": "https://*.example"}, REFUSED, REFUSED),
        ({"allow_origin": f"{HOME}, {HOME}"}, REFUSED, REFUSED),
        ({"allow_origin": f"{HOME} {OTHER}"}, REFUSED, REFUSED),
        ({"allow_origin": "*, *"}, REFUSED, REFUSED),
    ],
)
def test_another_origin_has_to_agree(
    said: dict[str, str], plain: str | None, with_credentials: str | None
) -> None:
    assert check(first(), **said) == plain
    assert check(first(credentials=CredentialsMode.INCLUDE), **said) == with_credentials
    assert check(first(OWN), **said) is None


def test_agreement_said_twice_is_none() -> None:
    twice = [(b"Access-Control-Allow-Origin", HOME.encode())] * 2
    with pytest.raises(RequestFailed):
        cors.check_answer(first(), twice)


def test_who_was_led_by_others_is_nobody_in_particular() -> None:
    step = led(first(), THIRD)
    assert check(step, allow_origin=HOME) == REFUSED
    assert check(step, allow_origin="null") is None
    back = led(first(OWN), OTHER, OWN)
    assert check(back) == check(back, allow_origin=HOME) == REFUSED


@pytest.mark.parametrize(
    ("policy", "url", "page", "is_allowed"),
    [
        ("same-origin", OTHER, HOME, False),
        ("same-origin", f"{HOME}:8443/", HOME, False),
        ("same-site", OTHER, HOME, False),
        ("same-site", f"{HOME}:8443/", HOME, True),
        ("same-site", "https://static.page.example/", HOME, True),
        ("same-site", "https://a.github.io/", "https://b.github.io", False),
        ("same-origin", "https://static.page.example/", HOME, False),
        ("same-site", "http://page.example/", HOME, True),
        ("same-site", OWN, "http://page.example", False),
        ("same-site", OWN, OPAQUE_ORIGIN, False),
        ("same-origin", OWN, OPAQUE_ORIGIN, False),
        ("cross-origin", OTHER, HOME, True),
        ("Same-Origin", OTHER, HOME, True),
        ("nonsense", OTHER, HOME, True),
        ("same-origin, same-origin", OTHER, HOME, True),
    ],
)
def test_a_server_may_keep_what_it_has_to_its_own(policy: str, url: str, page: str, is_allowed: bool) -> None:
    said = [(b"Cross-Origin-Resource-Policy", policy.encode())]
    code = failure(lambda: cors.check_answer(first(url, Mode.NO_CORS, origin=page), said))
    assert code == (None if is_allowed else FailureCode.CROSS_ORIGIN_BLOCKED)
    cors.check_answer(first(OWN, Mode.NO_CORS), said)


@pytest.mark.parametrize(
    ("step", "exposes", "names"),
    [
        (first(OWN), "", {"content-type", "x-one", "x-two"}),
        (first(), "", {"content-type"}),
        (first(), "X-One", {"content-type", "x-one"}),
        (first(), "X-One, x-two", {"content-type", "x-one", "x-two"}),
        (first(), "*", {"content-type", "x-one", "x-two"}),
        (first(credentials=CredentialsMode.INCLUDE), "*", {"content-type"}),
        (first(mode=Mode.NO_CORS), "*", set()),
    ],
)
def test_a_page_gets_the_headers_that_it_may_read(step: Step, exposes: str, names: set[str]) -> None:
    said = [(b"Access-Control-Expose-Headers", exposes.encode())]
    assert {name for name in ("content-type", "x-one", "x-two") if cors.is_exposed(step, said, name)} == names


# ── asking before ────────────────────────────────────────────────────────────────────────────────────────────────

PUT = first(method="PUT", headers=(("X-One", "1"), ("Content-Type", "application/json")))


def answered(step: Step, status: int = 204, **said: Any) -> Preflights:
    made = Preflights(lambda: 0.0)
    made.note(step, status, access_control(said))
    return made


def test_what_is_asked_before_names_what_will_be() -> None:
    assert dict(question(PUT)) == {
        b"Access-Control-Request-Method": b"PUT",
        b"Access-Control-Request-Headers": b"content-type,x-one",
    }
    assert not Preflights().needs(led(first(OWN, method="PUT"), OWN))
    assert Preflights().needs(led(first(OWN, method="PUT"), OTHER))
    assert not Preflights().needs(first(mode=Mode.NO_CORS, method="POST"))


@pytest.mark.parametrize(
    ("said", "plain", "with_credentials"),
    [
        ({"allow_methods": "PUT", "allow_headers": "X-ONE, content-type"}, True, True),
        ({"allow_methods": "GET, PUT", "allow_headers": "x-one,content-type,x-more"}, True, True),
        ({"allow_methods": "*", "allow_headers": "*"}, True, False),
        ({"allow_methods": "put", "allow_headers": "x-one,content-type"}, False, False),
        ({"allow_methods": "PUT", "allow_headers": "x-one"}, False, False),
        ({"allow_methods": "PUT"}, False, False),
        ({"allow_headers": "x-one,content-type"}, False, False),
        ({}, False, False),
    ],
)
def test_a_server_agrees_to_each_method_and_header(
    said: dict[str, str], plain: bool, with_credentials: bool
) -> None:
    included = msgspec.structs.replace(PUT, credentials=CredentialsMode.INCLUDE)
    assert failure(lambda: answered(PUT, 204, **said)) == (None if plain else REFUSED)
    assert failure(lambda: answered(included, 204, **said)) == (None if with_credentials else REFUSED)


def test_anything_is_not_a_password() -> None:
    step = first(headers=(("Authorization", "Bearer x"),))
    with pytest.raises(RequestFailed, match="authorization"):
        answered(step, allow_headers="*")
    answered(step, allow_headers="*, Authorization")


@pytest.mark.parametrize("status", [302, 401, 404, 500])
def test_what_fails_does_not_agree(status: int) -> None:
    with pytest.raises(RequestFailed):
        answered(PUT, status, allow_methods="*", allow_headers="*")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(None, 5), ("0", 0), ("60", 60), ("99999999999999", 7200), ("-1", 5), ("x", 5), ("١", 5)],
)
def test_an_agreement_holds_for_a_while(said: str | None, seconds: int) -> None:
    now = 0.0
    made = Preflights(lambda: now)
    headers = [(b"access-control-allow-methods", b"PUT"), (b"access-control-allow-headers", b"*")]
    if said is not None:
        headers.append((b"access-control-max-age", said.encode()))
    made.note(PUT, 200, headers)
    assert made.needs(PUT) is (seconds == 0)
    now = max(0.0, seconds - 0.5)
    assert not made.needs(PUT) or seconds == 0
    now = seconds
    assert made.needs(PUT)


def test_an_agreement_is_for_what_was_asked() -> None:
    made = answered(PUT, allow_methods="PUT", allow_headers="x-one, content-type")
    assert not made.needs(PUT)
    assert made.needs(first(method="DELETE"))
    assert made.needs(first(headers=(("X-Two", "2"),)))
    assert made.needs(first(OTHER + "?y", method="PUT"))
    assert made.needs(first(method="PUT", origin="https://www.page.example"))
    assert made.needs(first(method="PUT", credentials=CredentialsMode.INCLUDE))
    assert made.needs(led(first(THIRD, method="PUT"), OTHER))


def test_agreements_are_bounded() -> None:
    made = Preflights()
    for number in range(300):
        made.note(first(f"{OTHER}?{number}"), 200, [])
    assert len(made._agreed) == 100


# ── Fetch Metadata ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("way", "origin", "site"),
    [
        ([OWN], HOME, "same-origin"),
        ([f"{HOME}:8443/"], HOME, "same-site"),
        ([OTHER], HOME, "cross-site"),
        (["https://www.page.example/"], HOME, "same-site"),
        (["https://a.co.uk/"], "https://b.co.uk", "cross-site"),
        ([OTHER, OWN], HOME, "cross-site"),
        ([f"{HOME}:8443/", OWN], HOME, "same-site"),
        ([OWN], OPAQUE_ORIGIN, "cross-site"),
        ([OWN], "http://page.example", "cross-site"),
    ],
)
def test_servers_are_told_how_far_the_page_is_from_them(way: list[str], origin: str, site: str) -> None:
    step = led(first(way[0], origin=origin), *way[1:])
    told = {name.decode(): value.decode() for name, value in metadata(step, Destination.FONT)}
    assert told == {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "font"}


def test_a_document_is_asked_for_by_the_user_and_plain_http_is_told_nothing() -> None:
    step = first(mode=Mode.NAVIGATE, origin=OPAQUE_ORIGIN)
    assert dict(metadata(led(step, THIRD), Destination.DOCUMENT)) == {
        b"Sec-Fetch-Site": b"none",
        b"Sec-Fetch-Mode": b"navigate",
        b"Sec-Fetch-Dest": b"document",
        b"Sec-Fetch-User": b"?1",
    }
    assert metadata(first("http://other.example/"), Destination.IMAGE) == []
    assert metadata(first("http://localhost:8000/"), Destination.IMAGE)


# ── of any way there ─────────────────────────────────────────────────────────────────────────────────────────────

URLS = st.sampled_from([OWN, OTHER, THIRD, f"{HOME}:8443/", "http://page.example/"])


@settings(deadline=None)
@given(st.lists(URLS, min_size=1, max_size=6), st.sampled_from([Mode.NO_CORS, Mode.CORS]))
def test_only_what_never_left_the_page_s_origin_is_its_own(way: list[str], mode: Mode) -> None:
    step = led(first(way[0], mode), *way[1:])
    never_left = {origin(parse(url)) for url in way} == {HOME}
    assert (step.tainting is Tainting.BASIC) is never_left
    assert (step.relation is Relation.SAME_ORIGIN) is never_left
    if step.tainting is Tainting.CORS and step.is_tainted:
        assert check(step, allow_origin=HOME) == REFUSED
