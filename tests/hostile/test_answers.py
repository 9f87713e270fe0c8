"""Responses other than the product: pages, errors, waits, redirects and invalid heads."""

from __future__ import annotations

from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from tests.hostile.scenes import BODY, SIZE, Case, Turn, survive
from tests.servers import head

if TYPE_CHECKING:
    from pathlib import Path

    from tests.hostile.scenes import Answer

PAGE = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in</body></html>"
JSON = b'{"error": "quota exceeded", "message": "try tomorrow"}'
XML = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'


def status(code: int, *fields: tuple[str, object], body: bytes = b"") -> Answer:
    async def answer(turn: Turn) -> None:
        await turn.send(code, body, *fields)

    return answer


def page(body: bytes, kind: str, code: int = 200) -> Answer:
    return status(code, ("Content-Type", kind), body=body)


async def chunked_page(turn: Turn) -> None:
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PAGE), PAGE)
    await turn.wire.send(head(200, ("Transfer-Encoding", "chunked"), ("Content-Type", "text/html")) + chunks)


async def error_in_broken_chunks(turn: Turn) -> None:
    await turn.wire.send(head(503, ("Transfer-Encoding", "chunked")))
    await turn.wire.send(b"%x\r\n" % 150_000 + bytes(150_000) + b"\r\nzz\r\nabc\r\n")


def raw(first: bytes, body: bytes = b"") -> Answer:
    async def answer(turn: Turn) -> None:
        await turn.wire.send(first + body)

    return answer


def with_head(*fields: tuple[str, object]) -> Answer:
    """Return the right response with additional header fields."""

    async def answer(turn: Turn) -> None:
        await turn.whole(BODY, *fields)

    return answer


def before(interim: bytes) -> Answer:
    """Return informational responses (RFC 9110 §15.2) before the right one."""

    async def answer(turn: Turn) -> None:
        await turn.wire.send(interim)
        await turn.orderly()

    return answer


async def bare_newlines(turn: Turn) -> None:
    first = head(200, ("Content-Length", SIZE), *turn.mode.fields).replace(b"\r\n", b"\n")
    await turn.wire.send(first + BODY)


def redirect(location: str | None, code: int = 302, then: Answer | None = None) -> Answer:
    """Redirect to `location` (`{path}` is the product's path) and serve `then` there."""

    async def answer(turn: Turn) -> None:
        if then is not None and turn.request.path.count("/") > 2:
            await then(turn)
            return
        own = "/".join(turn.request.path.split("/")[:3])
        fields = [] if location is None else [("Location", location.format(path=own, origin=turn.origin))]
        await turn.send(code, b"", *fields)

    return answer


async def back_and_forth(turn: Turn) -> None:
    *first, last = turn.request.path.split("/")
    there = "/".join([*first, last]) + "/b" if len(first) == 2 else "/".join(first)
    await turn.send(302, b"", ("Location", there))


async def long_way(turn: Turn) -> None:
    """Fourteen redirects, then the product."""
    parts = turn.request.path.split("/")
    hop = int(parts[3]) if len(parts) > 3 else 0
    if hop == 14:
        await turn.orderly()
    else:
        await turn.send(307, b"", ("Location", "/".join([*parts[:3], str(hop + 1)])))


async def right(turn: Turn) -> None:
    await turn.orderly()


def soon(seconds: float) -> str:
    return formatdate(1_750_000_000 + seconds, usegmt=True)


HTTP, CONTENT = {"always": "http"}, {"always": "content"}
FOR_EVER = {"once": "http", "always": "http"}
REFUSED = {"always": "http"}
"""One refusal may be the mistake of one node: a refused product is asked for once more before the run ends."""
TOO_LONG = {"once": "http", "always": "http"}
CASES = {
    # Another document instead of the product
    "a login page": Case(answer=page(PAGE, "text/html"), **CONTENT),
    "a login page without its type": Case(answer=page(PAGE, ""), **CONTENT),
    "a login page that claims to be the product": Case(answer=page(PAGE, "application/octet-stream"), **CONTENT),
    "a login page in chunks": Case(answer=chunked_page, **CONTENT),
    "a login page behind a redirect": Case(answer=redirect("{path}/login", then=page(PAGE, "text/html")), **CONTENT),
    "a JSON error with 200": Case(answer=page(JSON, "application/json"), **CONTENT),
    "a JSON error behind a redirect": Case(
        answer=redirect("{path}/error", then=page(JSON, "application/json")), **CONTENT
    ),
    "an XML error with 200": Case(answer=page(XML, "application/xml"), **CONTENT),
    "a page with 503": Case(answer=page(PAGE, "text/html", 503), **HTTP),
    "an error whose body breaks": Case(answer=error_in_broken_chunks, **HTTP),
    # Statuses
    **{
        f"{code}": Case(answer=status(code), **HTTP) for code in (408, 409, 421, 423, 425, 429, 500, 502, 503, 504, 599)
    },
    **{
        f"{code}, which only a second look mends": Case(answer=status(code), **REFUSED)
        for code in (203, 204, 205, 207, 226, 300, 304, 305, 400, 404, 406, 410, 412, 418, 451, 501, 505, 510, 600, 999)
    },
    **{f"{code} without an account": Case(answer=status(code), always="auth") for code in (401, 403)},
    # Waits (RFC 9110 §10.2.3)
    **{
        f"{code} with Retry-After: {value}": Case(answer=status(code, ("Retry-After", value)), **HTTP)
        for code in (429, 503)
        for value in ("0", "7", "2.5", soon(0), soon(-86400), "-5", "soon", "", "7, 8", "0x10", "NaN", "\xb2")
    },
    **{
        f"{code} with Retry-After: {value}": Case(answer=status(code, ("Retry-After", value)), **TOO_LONG)
        for code in (429, 503)
        for value in ("999999", "9" * 40, "Fri, 31 Dec 9999 23:59:59 GMT")
    },
    "425 with Retry-After": Case(answer=status(425, ("Retry-After", "1")), **HTTP),
    "202": Case(answer=status(202), always="offline"),
    "202 with a wait": Case(answer=status(202, ("Retry-After", "300")), always="offline"),
    "202 with a page": Case(answer=page(PAGE, "text/html", 202), always="offline"),
    "202 with a wait that is rubbish": Case(answer=status(202, ("Retry-After", "later")), always="offline"),
    "202 with too long a wait": Case(answer=status(202, ("Retry-After", "9999999")), once="offline", always="offline"),
    # Redirects (§15.4)
    "a redirect to itself": Case(answer=redirect("{path}/a", then=redirect("{path}/a")), **FOR_EVER),
    "a redirect back and forth": Case(answer=back_and_forth, **HTTP),
    "a redirect of fourteen hops": Case(answer=long_way),
    **{
        f"a good redirect with {code}": Case(answer=redirect("{path}/x", code, right))
        for code in (301, 302, 303, 307, 308)
    },
    "a redirect to an absolute URL": Case(answer=redirect("{origin}{path}/x?y=1#z", then=right)),
    "a redirect to a query of its own": Case(answer=redirect("?x=1"), **HTTP),
    "a redirect with spaces and letters that are no ASCII": Case(answer=redirect("{path}/a b/\xe9", then=right)),
    **{
        f"a redirect to {where[:24]!r}": Case(answer=redirect(where), **FOR_EVER)
        for where in (
            "file:///etc/passwd",
            "javascript:alert(1)",
            "http://[::1",
            "ftp://127.0.0.1/x",
            "http://u:p@127.0.0.1/x",
            "http://127.0.0.1:99999/x",
            "data:,x",
            "http://\x01/",
        )
    },
    "a redirect to a closed port": Case(answer=redirect("http://127.0.0.1:9/x"), always="network"),
    "a redirect without a place": Case(answer=redirect(None), **REFUSED),
    "a redirect to an empty place": Case(answer=redirect(""), **REFUSED),
    # Heads
    "no HTTP": Case(answer=raw(b"SSH-2.0-x\r\n\r\n"), always="network"),
    "HTTP/0.9": Case(answer=raw(b"", PAGE), always="network"),
    "HTTP/2 unasked": Case(answer=raw(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" * 4), always="network"),
    "a status that is no number": Case(answer=raw(b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n"), always="network"),
    "a field without a colon": Case(answer=raw(b"HTTP/1.1 200 OK\r\nrubbish\r\n\r\n", BODY), always="network"),
    "a field with a zero byte": Case(answer=with_head(("X-Odd", "a\0b")), always="network"),
    "a field of a megabyte": Case(answer=with_head(("X-Filler", "x" * 1_000_000)), always="network"),
    "a field of 60 000 bytes": Case(answer=with_head(("X-Filler", "x" * 60_000))),
    "a hundred thousand fields": Case(answer=with_head(*[("X", "1")] * 100_000), always="network"),
    "a hundred cookies": Case(
        answer=with_head(*[("Set-Cookie", f"a{i}=b; Domain=.com; Max-Age=x") for i in range(100)])
    ),
    "a cookie that is rubbish": Case(answer=with_head(("Set-Cookie", "\x7f;;=\xff=;"))),
    "lines that end with a newline alone": Case(answer=bare_newlines),
    "100 and 103 before the answer": Case(
        answer=before(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    ),
    "101 unasked": Case(answer=raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), **REFUSED),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_product_is_right_or_a_named_failure_after(name: str, tmp_path: Path):
    await survive(replace(CASES[name], only=("new", "cut, ETag")), tmp_path)
