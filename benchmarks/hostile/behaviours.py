"""Behaviours of a hostile archive: each function returns an answer that is correct except for one thing."""

from __future__ import annotations

import gzip
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.hostile.site import Answer, Behaviour, End, Site, honest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers import RawRequest

__all__ = [
    "HTML",
    "at_ranges",
    "bent",
    "body_is",
    "broken",
    "changing",
    "chunked",
    "coded",
    "cut",
    "cut_and_gone",
    "cut_and_stall",
    "disposed",
    "flipped",
    "garbage",
    "http10",
    "looping",
    "multipart",
    "no_partial",
    "once",
    "page",
    "part_of",
    "plain",
    "redirected",
    "refused",
    "spliced",
    "status",
    "twofold",
    "unasked",
    "wrong_part",
]

HTML = (
    b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><form action='/login'></form></body></html>\n" * 9
)
BOUNDARY = "LIMIT"


def plain(site: Site, request: RawRequest, _number: int) -> Answer:
    return honest(site, request)


def once(bad: Behaviour) -> Behaviour:
    """Apply the behaviour to the first request only."""
    return lambda site, request, number: (bad if number == 0 else plain)(site, request, number)


def at_ranges(bad: Behaviour) -> Behaviour:
    """Apply the behaviour to every request for a range after the first byte."""

    def behave(site: Site, request: RawRequest, number: int) -> Answer:
        part = request.range(len(site.body))
        return (bad if part is not None and part[0] > 0 else plain)(site, request, number)

    return behave


def bent(bend: Callable[[Site, Answer], Answer]) -> Behaviour:
    return lambda site, request, _number: bend(site, honest(site, request))


# ---- cuts


def cut(share: float, end: End = End.CLOSE) -> Behaviour:
    """End the body early, after this share of the product."""
    return bent(lambda site, answer: answer.cut(min(int(len(site.body) * share), len(answer.body) - 1), end))


def broken(share: float, end: End = End.CLOSE) -> Behaviour:
    """Never send a byte after this share of the product."""

    def behave(site: Site, request: RawRequest, _number: int) -> Answer:
        part = honest(site, request)
        start = (request.range(len(site.body)) or (0, 0))[0] if part.status == 206 else 0
        return part.cut(max(0, int(len(site.body) * share) - start), end)

    return behave


def cut_and_gone(site: Site, request: RawRequest, number: int) -> Answer:
    """Cut the product once, then answer that it does not exist."""
    return cut(0.6)(site, request, number) if number == 0 else status(404)(site, request, number)


def cut_and_stall(site: Site, request: RawRequest, number: int) -> Answer:
    """Send part of the product, then nothing."""
    return cut(0.6, End.STALL)(site, request, number)


# ---- ranges


def no_partial(site: Site, request: RawRequest, _number: int) -> Answer:
    """Ignore the range, but claim to honour it."""
    bare = replace(request, headers=tuple(pair for pair in request.headers if pair[0].lower() != "range"))
    return honest(site, bare)


def wrong_part(bend: Callable[[Site, int, int], Answer]) -> Behaviour:
    """Give a wrong answer to each range after the first byte; `bend` gets its start and stop."""

    def behave(site: Site, request: RawRequest, _number: int) -> Answer:
        start, stop = request.range(len(site.body)) or (0, len(site.body))
        if start >= stop or not site.agrees(request.header("If-Range")):
            return honest(site, request)
        return bend(site, start, stop)

    return at_ranges(behave)


def part_of(site: Site, start: int, stop: int, *, says: str = "", body: bytes | None = None) -> Answer:
    """Return a 206 of `start` to `stop`, or one that only claims to be."""
    data = site.body[start:stop] if body is None else body
    span = says or f"bytes {start}-{stop - 1}/{len(site.body)}"
    fields = (("Content-Length", len(data)), ("Content-Range", span), ("Accept-Ranges", "bytes"), *site.validators)
    return Answer(206, fields, data)


def multipart(site: Site, start: int, stop: int) -> Answer:
    span = f"bytes {start}-{stop - 1}/{len(site.body)}"
    lines = f"\r\n--{BOUNDARY}\r\nContent-Range: {span}\r\n\r\n".encode()
    body = lines + site.body[start:stop] + f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = ("Content-Type", f"multipart/byteranges; boundary={BOUNDARY}")
    return Answer(206, (("Content-Length", len(body)), kind, *site.validators), body)


def unasked(site: Site, request: RawRequest, number: int) -> Answer:
    """Answer a request without a range with the first half as a 206."""
    if request.header("Range") is not None:
        return plain(site, request, number)
    return part_of(site, 0, len(site.body) // 2)


# ---- versions


def changing(site: Site, request: RawRequest, number: int) -> Answer:
    """Serve the second version from the second request on.

    Cut the first answer unless several connections run anyway.
    """
    if site.edition == 1 or number > 0:
        return honest(site.now(1), request)
    answer = honest(site, request)
    return answer if site.pace else answer.cut(int(len(site.body) * 0.6))


def spliced(site: Site, request: RawRequest, number: int) -> Answer:
    """Do the same, and ignore `If-Range`."""
    if request.header("If-Range") is None:
        return changing(site, request, number)
    headers = tuple(pair for pair in request.headers if pair[0].lower() != "if-range")
    return changing(site, replace(request, headers=headers), number)


# ---- bodies that are something else


def body_is(body: bytes, kind: str) -> Behaviour:
    """Answer every request with a 200 and this body."""
    fields = (("Content-Length", len(body)), ("Content-Type", kind))
    return lambda _site, _request, _number: Answer(200, fields, body)


page = body_is(HTML, "text/html; charset=utf-8")


def redirected(_site: Site, request: RawRequest, _number: int) -> Answer:
    """Redirect to the login page."""
    if request.path == "/login":
        return Answer(200, (("Content-Length", len(HTML)), ("Content-Type", "text/html")), HTML)
    return Answer(302, (("Content-Length", 0), ("Location", "/login")), b"")


def looping(_site: Site, _request: RawRequest, number: int) -> Answer:
    return Answer(302, (("Content-Length", 0), ("Location", f"/product.bin?{number}")), b"")


def status(code: int, body: bytes = b"", **fields: object) -> Behaviour:
    """Answer with this status; `X_Y=` stands for a field `X-Y`."""
    answer = Answer(code, (("Content-Length", len(body)),), body).told(**fields)
    return lambda _site, _request, _number: answer


def refused(code: int) -> Behaviour:
    """Refuse every range request with this status."""
    return at_ranges(status(code))


def flipped(site: Site, answer: Answer) -> Answer:
    """Flip one bit of the product's middle byte, if the answer contains it."""
    middle = len(site.body) // 2
    span = dict(answer.fields).get("Content-Range")
    at = middle - (int(str(span).partition(" ")[2].partition("-")[0]) if answer.status == 206 else 0)
    if not 0 <= at < len(answer.body):
        return answer
    return replace(answer, body=answer.body[:at] + bytes([answer.body[at] ^ 1]) + answer.body[at + 1 :])


# ---- framing and codings


def coded(site: Site, request: RawRequest, number: int) -> Answer:
    """Compress the whole product with gzip, whatever `Accept-Encoding` says."""
    answer = no_partial(site, request, number).told(Accept_Ranges=None)
    return answer.carrying(gzip.compress(answer.body, 1, mtime=0)).told(Content_Encoding="gzip")


def chunked(share: float | None = None) -> Behaviour:
    """Send the whole product in chunks; end after a share of it, without the last chunk."""

    def behave(site: Site, request: RawRequest, number: int) -> Answer:
        answer = no_partial(site, request, number)
        data = answer.body if share is None else answer.body[: int(len(answer.body) * share)]
        pieces = (data[at : at + 8192] for at in range(0, len(data), 8192))
        body = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
        answer = answer.told(Content_Length=None, Accept_Ranges=None, Transfer_Encoding="chunked")
        return replace(answer, body=body + (b"0\r\n\r\n" if share is None else b""), end=End.CLOSE)

    return behave


def http10(share: float = 1.0, end: End = End.CLOSE) -> Behaviour:
    """Answer with HTTP/1.0 without a length: the end of the connection ends the body."""

    def behave(site: Site, request: RawRequest, number: int) -> Answer:
        answer = no_partial(site, request, number).told(Content_Length=None, Accept_Ranges=None)
        return replace(answer.cut(int(len(answer.body) * share), end), version="HTTP/1.0")

    return behave


def twofold(site: Site, answer: Answer) -> Answer:
    """Send two lengths that differ."""
    lengths = (("Content-Length", len(site.body) // 2), ("Content-Length", len(site.body)))
    return replace(answer, fields=lengths + answer.told(Content_Length=None).fields)


def garbage(_site: Site, _request: RawRequest, _number: int) -> Answer:
    return Answer(200, (), b"SSH-2.0-archive\r\n", version="SSH/2", end=End.CLOSE)


def disposed(name: str) -> Behaviour:
    """Send this file name; `OUTSIDE` in it stands for a folder that no product may reach."""
    return bent(
        lambda site, answer: answer.told(
            Content_Disposition=f'attachment; filename="{name.replace("OUTSIDE", site.outside)}"'
        )
    )
