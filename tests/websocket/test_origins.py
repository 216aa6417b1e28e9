"""Which origins may connect: the same, listed ones, patterns, and everything that only looks like them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gevpy import ConfigError
from gevpy.websocket.http import Refusal, Request
from gevpy.websocket.origins import OriginPolicy
from tests.websocket.heads import upgrade_request

LISTED = ["https://good.com", "http://localhost:3000", "https://*.wild.com", "https://*.port.com:8443"]


def passes(policy: OriginPolicy, request: Request) -> bool:
    """Tell what the policy says; a refusal must be a 403."""
    try:
        policy.check(request)
    except Refusal as refusal:
        assert refusal.status == 403  # noqa: PT017 - any other error fails by itself
        return False
    return True


def asked(origin: str, host: str = "good.com") -> Request:
    """Give a request from a page of ``origin``."""
    return upgrade_request(("Origin", origin), host=host)


@pytest.mark.parametrize(
    ("origin", "host", "is_same"),
    [
        ("https://good.com", "good.com", True),
        ("http://good.com", "good.com", True),
        ("HTTPS://GOOD.com", "good.COM", True),
        ("https://good.com:443", "good.com", True),
        ("https://good.com", "good.com:443", True),
        ("http://good.com:80", "good.com", True),
        ("http://good.com", "good.com:80", True),
        ("http://good.com:8080", "good.com:8080", True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("http://my_service", "my_service", True),
        ("http://good.com", "good.com:443", False),
        ("https://good.com", "good.com:80", False),
        ("https://good.com:8443", "good.com", False),
        ("https://good.com", "good.com:8443", False),
        ("https://good.com:443", "good.com:8443", False),
        ("https://good.com.evil.com", "good.com", False),
        ("https://evilgood.com", "good.com", False),
        ("https://www.good.com", "good.com", False),
        ("https://good.com", "www.good.com", False),
        ("https://evil.com", "good.com", False),
        ("https://good.com@evil.com", "good.com", False),
        ("https://evil.com@good.com", "good.com", False),
        ("https://user:pw@good.com", "good.com", False),
        ("https://evil.com/good.com", "good.com", False),
        ("https://good.com/", "good.com", False),
        ("https://good.com/path", "good.com", False),
        ("https://good.com?x", "good.com", False),
        ("https://good.com#x", "good.com", False),
        ("https://good.com:", "good.com", False),
        ("https://good.com:0443", "good.com", False),
        ("https://good.com:99999999", "good.com", False),
        ("https://good.com:x", "good.com", False),
        ("https://good.com.", "good.com", False),
        ("https://good..com", "good..com", False),
        ("https://.good.com", "good.com", False),
        ("https://*.com", "good.com", False),
        ("https://*.good.com", "*.good.com", False),
        ("https://", "good.com", False),
        ("good.com", "good.com", False),
        ("//good.com", "good.com", False),
        ("https:good.com", "good.com", False),
        ("https:///good.com", "good.com", False),
        ("https://good.com https://evil.com", "good.com", False),
        ("https://evil.com, https://good.com", "good.com", False),
        ("file://good.com", "good.com", False),
        ("chrome-extension://good.com", "good.com", False),
        ("ftp://good.com", "good.com", False),
        ("null", "good.com", False),
        ("null", "null", False),
        ("NULL", "good.com", False),
        ("", "good.com", False),
        ("*", "good.com", False),
        ("https://g\xf6\xf6d.com", "good.com", False),
        ("https://good.com\x00", "good.com", False),
        ("https://good.com\x00.evil.com", "good.com", False),
        ("https://" + "a." * 400 + "good.com", "a." * 400 + "good.com", False),
    ],
)
def test_same_origin(origin: str, host: str, is_same: bool) -> None:
    """E13: by default only pages of the request's host and port may connect."""
    assert passes(OriginPolicy(), asked(origin, host)) is is_same


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("https://good.com", True),
        ("HTTPS://Good.Com:443", True),
        ("http://good.com", False),
        ("https://good.com:8443", False),
        ("https://www.good.com", False),
        ("https://good.com.evil.com", False),
        ("https://evilgood.com", False),
        ("http://localhost:3000", True),
        ("http://localhost", False),
        ("http://localhost:30001", False),
        ("https://a.wild.com", True),
        ("https://a.b.WILD.com:443", True),
        ("https://wild.com", False),
        ("https://evilwild.com", False),
        ("https://.wild.com", False),
        ("https://a..wild.com", False),
        ("https://*.wild.com", False),
        ("https://a.wild.com.evil.com", False),
        ("https://a.wild.com:8443", False),
        ("http://a.wild.com", False),
        ("https://evil.com#.wild.com", False),
        ("https://evil.com/.wild.com", False),
        ("https://evil.com\\.wild.com", False),
        ("https://evil.com%2f.wild.com", False),
        ("https://x@a.wild.com", False),
        ("https://a.port.com:8443", True),
        ("https://a.port.com", False),
        ("https://here.com", False),
        ("null", False),
        ("", False),
    ],
)
def test_listed_origins(origin: str, is_allowed: bool) -> None:
    """E13: a list says it all; the request's own host is not in it by itself."""
    assert passes(OriginPolicy(LISTED), asked(origin, "here.com")) is is_allowed


@pytest.mark.parametrize("origins", [None, [], ["https://good.com"], ["*"]])
def test_two_origins_are_refused(origins: list[str] | None) -> None:
    """E13: nobody knows which one counts, even where they are equal."""
    request = upgrade_request(("Origin", "https://good.com"), ("origin", "https://good.com"), host="good.com")
    assert not passes(OriginPolicy(origins), request)


@pytest.mark.parametrize("origins", [None, [], ["https://good.com"], ["*"]])
def test_no_origin(origins: list[str] | None) -> None:
    """E13: what is no browser sends none; that is allowed unless told otherwise."""
    assert passes(OriginPolicy(origins), upgrade_request())
    assert not passes(OriginPolicy(origins, require_origin=True), upgrade_request())
    required = OriginPolicy(["https://good.com"], require_origin=True)
    assert passes(required, asked("https://good.com"))


def test_null_must_be_listed() -> None:
    """E13: sandboxed pages and files of any site are "null"."""
    assert passes(OriginPolicy(["null"]), asked("null"))
    assert not passes(OriginPolicy(["null"]), asked("https://good.com"))


@pytest.mark.parametrize("origin", ["https://evil.com", "null", "file://", ""])
def test_a_star_allows_everything(origin: str) -> None:
    """One star alone is no check at all."""
    assert passes(OriginPolicy(["*"]), asked(origin))


def test_an_empty_list_allows_no_page() -> None:
    """Only what has no Origin passes."""
    assert not passes(OriginPolicy([]), asked("https://good.com"))


def test_other_schemes_can_be_listed() -> None:
    """Apps that are no web pages have origins of their own."""
    policy = OriginPolicy(["capacitor://localhost", "chrome-extension://abcdef"])
    assert passes(policy, asked("capacitor://localhost"))
    assert passes(policy, asked("chrome-extension://abcdef"))
    assert not passes(policy, asked("chrome-extension://abcdeg"))


def test_the_host_of_a_url_counts() -> None:
    """A target that is a URL says whom the request is for; Host is ignored then (RFC 9112 section 3.2.2)."""
    line = "GET http://good.com/chat HTTP/1.1"
    assert passes(OriginPolicy(), upgrade_request(("Origin", "http://good.com"), line=line, host="evil.com"))
    assert not passes(OriginPolicy(), upgrade_request(("Origin", "http://evil.com"), line=line, host="evil.com"))


def test_a_request_without_a_host() -> None:
    """It has no origin that could be the same."""
    assert not passes(OriginPolicy(), upgrade_request(("Origin", "http://good.com"), host=None))


@pytest.mark.parametrize(
    "origin",
    [
        "good.com",
        "https://good.com/",
        "https://*",
        "https://*good.com",
        "https://a.*.com",
        "https://*.*.com",
        "https://good.com:*",
        "https://good.com:0",
        "https://good.com:123456",
        "https://u@good.com",
        "*.good.com",
        "**",
        "",
        1,
    ],
)
def test_what_is_no_origin_raises(origin: str) -> None:
    """A slip in the list is told where it is made, not by pages that don't connect."""
    with pytest.raises(ConfigError, match="origin"):
        OriginPolicy([origin])


def test_a_list_is_no_str() -> None:
    """A ``str`` would be a list of its letters."""
    with pytest.raises(ConfigError, match="list"):
        OriginPolicy("https://good.com")


@given(st.text(st.characters(max_codepoint=0xFF, exclude_characters="\r\n"), max_size=40))
def test_any_text_is_judged(text: str) -> None:
    """Whatever an Origin says, the answer is yes or a 403, and yes only for what is listed."""
    assert passes(OriginPolicy(LISTED), asked(text)) is (text.strip(" \t").lower() in LISTED[:2])
    assert not passes(OriginPolicy([]), asked(text))


def test_no_origin_is_slow() -> None:
    """E16: names of many labels, in an Origin or a Host, take no time."""
    best = 1.0
    requests = [
        asked("https://" + "a." * 16_000 + "wild.com"),
        asked("https://" + "a" * 32_000 + "@"),
        asked("https://good.com", "a." * 16_000 + "/"),
    ]
    for _ in range(5):
        begun = time.thread_time()
        for request in requests:
            assert not passes(OriginPolicy(["https://*.wild.com"]), request)
            assert not passes(OriginPolicy(), request)
        best = min(best, time.thread_time() - begun)
    assert best < 0.05
