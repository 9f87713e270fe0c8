"""The table of cases: the archive's behaviour, the modes it applies to, and if a tool could detect it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from benchmarks.hostile.behaviours import (
    at_ranges,
    bent,
    body_is,
    broken,
    changing,
    chunked,
    coded,
    cut,
    disposed,
    flipped,
    garbage,
    http10,
    looping,
    multipart,
    no_partial,
    once,
    page,
    part_of,
    plain,
    redirected,
    refused,
    spliced,
    status,
    twofold,
    unasked,
    wrong_part,
)
from benchmarks.hostile.site import End, Marks

if TYPE_CHECKING:
    from benchmarks.hostile.site import Behaviour

__all__ = ["CASES", "Case", "Mode"]


class Mode(Enum):
    """The conditions of a trial."""

    FRESH = "F"
    RESUME = "R"
    CHANGED = "C"
    SEVERAL = "S"
    KILLED = "K"
    AFTER = "A"

    @property
    def says(self) -> str:
        return {
            Mode.FRESH: "first run",
            Mode.RESUME: "run again after a run that got 60 %",
            Mode.CHANGED: "the same, and the product has changed in between",
            Mode.SEVERAL: "four connections, product of 8 MiB",
            Mode.KILLED: "run again after `kill -9` at 60 %",
            Mode.AFTER: "run again after a complete run, with a longer edition in the archive",
        }[self]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    behave: Behaviour
    modes: str = "F"
    """Letters of `Mode`."""
    marks: Marks = Marks.STRONG
    blind: bool = False
    """Without a checksum, nothing distinguishes the wrong bytes from the right ones."""
    size: int | None = None
    path: str = "/product.bin"
    zipped: bool = False
    """The product is a ZIP, whose structure reveals a cut."""
    named: bool = True
    """The tool gets the final name instead of taking it from the answer."""


JSON_ERROR = body_is(b'{"error": {"code": "QuotaExceeded", "message": "Try again tomorrow"}}', "application/json")
XML_ERROR = body_is(
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>', "application/xml"
)
SECOND = '{"status": "preparing"}'
LATER = {"Retry_After": 1}


def _span(site_size: int, start: int, stop: int, total: object = None) -> str:
    return f"bytes {start}-{stop - 1}/{site_size if total is None else total}"


CUTS = (
    Case("an honest archive", plain, "FRCSKA"),
    Case("cut before the first byte, once", once(cut(0)), "FRSK"),
    Case("cut before the first byte, always", broken(0), "F"),
    Case("cut in the middle, once", once(cut(0.4)), "FRCSKA"),
    Case("cut in the middle, every request", cut(0.4), "FRS"),
    Case("cut in the middle, no validator", once(cut(0.4)), "FRS", marks=Marks.NONE),
    Case("never a byte behind 70 %", broken(0.7), "FR"),
    Case("reset in the middle, once", once(cut(0.4, End.RESET)), "FRSK"),
    Case("reset in the middle, never further", broken(0.7, End.RESET), "FR"),
    Case("silence in the middle, once", once(cut(0.4, End.STALL)), "FR"),
)
RANGES = (
    Case("Range ignored: 200 with the whole", no_partial, "RCSKA"),
    Case("Range ignored, and cut", lambda s, r, n: no_partial(s, r, n).cut(len(s.body) // 3), "R"),
    Case("206 from another start, said", wrong_part(lambda s, a, b: part_of(s, a // 2, b)), "RCSK"),
    Case(
        "206 from another start, not said",
        wrong_part(
            lambda s, a, b: part_of(s, a, b, body=s.body[a - 1000 : b - 1000]),
        ),
        "RS",
        blind=True,
    ),
    Case(
        "206 with another total",
        wrong_part(lambda s, a, b: part_of(s, a, b, says=_span(len(s.body), a, b, len(s.body) + 1))),
        "RSK",
    ),
    Case(
        "206 with an unknown total",
        wrong_part(lambda s, a, b: part_of(s, a, b, says=_span(len(s.body), a, b, "*"))),
        "RS",
    ),
    Case(
        "206 longer than it says",
        wrong_part(
            lambda s, a, b: part_of(s, a, b, says=_span(len(s.body), a, b), body=s.body[a:b] + b"more" * 500),
        ),
        "RSK",
    ),
    Case(
        "206 with less than it says",
        wrong_part(lambda s, a, b: part_of(s, a, b, says=_span(len(s.body), a, b), body=s.body[a : (a + b) // 2])),
        "RSK",
    ),
    Case("206 with less than asked for, said", wrong_part(lambda s, a, b: part_of(s, a, (a + b + 1) // 2)), "RS"),
    Case("206 without Content-Range", wrong_part(lambda s, a, b: part_of(s, a, b).told(Content_Range=None)), "RSK"),
    Case("206 with multipart/byteranges", wrong_part(multipart), "RSK"),
    Case("206 of half to who asks for the whole", unasked, "F"),
    Case("416 to every range", refused(416), "RCSK"),
    Case("416 to everything", status(416), "FRA"),
)
CHANGES = (
    Case("changes, strong ETag", changing, "FCSKA"),
    Case("changes, weak ETag", changing, "FCSKA", marks=Marks.WEAK),
    Case("changes, no validator", changing, "FCSKA", marks=Marks.NONE),
    Case("changes, Last-Modified only", changing, "FCSKA", marks=Marks.DATE),
    Case("changes, If-Range ignored", spliced, "FCSK"),
    Case("changes under the same strong ETag", changing, "FCSK", marks=Marks.LYING, blind=True),
)
BODIES = (
    Case("login page with 200, once", once(page), "FRCSKA"),
    Case("login page with 200, always", page, "FRKA"),
    Case("login page with 200 to every range", at_ranges(page), "RS"),
    Case("redirect to a login page, once", once(redirected), "F"),
    Case("redirect to a login page, always", redirected, "FRA"),
    Case("redirect without end", looping, "FR"),
    Case("JSON error with 200", JSON_ERROR, "FRA"),
    Case("XML error with 200", XML_ERROR, "FRA"),
    Case("error page with 500", status(500, b"<html>Internal error</html>"), "FR"),
    Case("204 without a body", lambda s, r, n: status(204)(s, r, n).told(Content_Length=None), "FR"),
    Case("200 with an empty body, once", once(status(200)), "FR", blind=True),
    Case("a product of no bytes", plain, "F", size=0),
    Case("flipped bit, once", once(bent(flipped)), "FR", blind=True),
    Case("flipped bit, always", bent(flipped), "FR", blind=True),
    Case("gzip that was not asked for", coded, "FR"),
    Case("no HTTP at all", garbage, "FR"),
)
FRAMES = (
    Case("chunked, no length", chunked(), "FR"),
    Case("chunked, broken off, once", once(chunked(0.5)), "FR"),
    Case("chunked, broken off, always", chunked(0.5), "FR"),
    Case(
        "Content-Length too small",
        bent(lambda _s, a: a.told(Content_Length=max(1, len(a.body) - 5000))),
        "FR",
        blind=True,
    ),
    Case("Content-Length too large", bent(lambda _s, a: a.told(Content_Length=len(a.body) + 5000).cut(1 << 40)), "FR"),
    Case("two Content-Lengths that differ", bent(twofold), "FR"),
    Case("HTTP/1.0, no length", http10(), "FR"),
    Case("HTTP/1.0, no length, cut, once", once(http10(0.5)), "FR", blind=True),
    Case("HTTP/1.0, no length, cut, always", http10(0.5), "FR", blind=True),
    Case("HTTP/1.0, no length, cut, once: a ZIP", once(http10(0.5)), "FR", path="/product.zip", zipped=True),
    Case("HTTP/1.0, no length, cut, always: a ZIP", http10(0.5), "FR", path="/product.zip", zipped=True),
    Case(
        "Content-Length too small: a ZIP",
        bent(lambda _s, a: a.told(Content_Length=max(1, len(a.body) - 5000))),
        "FR",
        path="/product.zip",
        zipped=True,
    ),
    Case("200 with an empty body, always: a ZIP", status(200), "FR", path="/product.zip", zipped=True),
    Case("HTTP/1.0, no length, reset, once", once(http10(0.5, End.RESET)), "FR"),
)
WAITS = (
    Case("503 once", once(status(503, b"busy")), "FR"),
    Case("503 always", status(503, b"busy"), "FR"),
    Case("503 to every range", refused(503), "RS"),
    Case("429 with Retry-After", once(status(429, b"slow down", **LATER)), "FRS"),
    Case("202 once, being prepared", once(status(202, SECOND.encode(), **LATER)), "FR"),
    Case("202 always", status(202, SECOND.encode(), **LATER), "FR"),
)
NAMES = tuple(
    Case(f"Content-Disposition: {name}", disposed(name), "F", path="/get/17", named=False)
    for name in ("../../escaped.bin", "OUTSIDE/escaped.bin", "..\\\\..\\\\escaped.bin", ".bashrc", "..")
)

CASES = (*CUTS, *RANGES, *CHANGES, *BODIES, *FRAMES, *WAITS, *NAMES)
