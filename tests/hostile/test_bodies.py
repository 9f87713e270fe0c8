"""Bodies that end early, late or never, and wrong lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.effort import effort
from tests.hostile.scenes import BODY, CUT, DOSES, SIZE, Case, Turn, in_most, survive
from tests.servers import head

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CHECKED = ("new, checksum", "cut, checksum")
KNOWN = ("new, size", *CHECKED)
NETWORK = {"always": "network"}
VAIN = {f"always, {mode}": "network" for mode in ("new, nothing known", "cut, weak ETag")}
"""Modes without any validator or checksum: each cut restarts the download."""
MISTRUSTED = {f"{dose}, {mode}": "checksum" if dose == "always" else "right" for dose in DOSES for mode in CHECKED}
SIZED = {"always, new, size": "size"}
"""A wrong size is believed when it comes twice."""


def after(count: int, *, reset: bool = False):
    """Send the right response, but only `count` bytes of the body."""

    async def answer(turn: Turn) -> None:
        start, stop = turn.asked or (0, SIZE)
        fields: list[tuple[str, object]] = [("Content-Length", stop - start), *turn.mode.fields]
        if turn.asked:
            fields.append(("Content-Range", f"bytes {start}-{stop - 1}/{SIZE}"))
        await turn.wire.send(head(206 if turn.asked else 200, *fields) + BODY[start:stop][:count])
        if reset:
            turn.wire.reset()

    return answer


def silent(turn_sends: bytes, count: int = 0):
    """Send `turn_sends` and `count` bytes of the body, then stall."""

    async def answer(turn: Turn) -> None:
        await turn.wire.send(turn_sends + BODY[:count])
        await turn.wire.hang()

    return answer


async def nothing(turn: Turn) -> None:
    """Close the connection without a response."""


async def reset_at_once(turn: Turn) -> None:
    turn.wire.reset()


async def half_a_head(turn: Turn) -> None:
    await turn.wire.send(b"HTTP/1.1 200 OK\r\nContent-Le")


def lengths(*told: object, body: bytes = BODY, more: bytes = b"", fields: tuple[tuple[str, object], ...] = ()):
    """Send a complete response with these `Content-Length` fields."""

    async def answer(turn: Turn) -> None:
        declared = [("Content-Length", value) for value in told]
        await turn.wire.send(head(200, *declared, *fields, ("Connection", "close"), *turn.mode.fields) + body + more)

    return answer


def chunked(
    *pieces: bytes,
    end: bytes = b"0\r\n\r\n",
    fields: tuple[tuple[str, object], ...] = (),
    named: tuple[str, ...] = ("chunked",),
):
    async def answer(turn: Turn) -> None:
        first = head(
            200, *(("Transfer-Encoding", name) for name in named), ("Connection", "close"), *fields, *turn.mode.fields
        )
        await turn.wire.send(first + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + end)

    return answer


def close_delimited(count: int, version: str = "HTTP/1.0"):
    async def answer(turn: Turn) -> None:
        await turn.whole(BODY[:count], length=None, version=version)

    return answer


def flipped(at: int):
    async def answer(turn: Turn) -> None:
        wrong = bytearray(BODY)
        wrong[at] ^= 1
        await (turn.part(*turn.asked, bytes(wrong)) if turn.asked else turn.whole(bytes(wrong)))

    return answer


CASES = {
    "a close without an answer": Case(answer=nothing, **NETWORK),
    "a reset without an answer": Case(answer=reset_at_once, **NETWORK),
    "a close inside the head": Case(answer=half_a_head, **NETWORK),
    "a close before the body": Case(answer=after(0), **NETWORK),
    "a reset before the body": Case(answer=after(0, reset=True), **NETWORK),
    "a cut every 50 000 bytes": Case(answer=after(50_000), but=VAIN | {"always, cut, overlap": "network"}),
    "a reset every 50 000 bytes": Case(
        answer=after(50_000, reset=True), but=VAIN | {"always, cut, overlap": "network"}
    ),
    "a cut before the last byte": Case(answer=after(SIZE - CUT - 1), but=VAIN),
    "silence before an answer": Case(answer=silent(b""), **NETWORK, settings={"timeout": 0.3}),
    "silence inside the head": Case(answer=silent(b"HTTP/1.1 200 OK\r\nCont"), **NETWORK, settings={"timeout": 0.3}),
    "silence inside the body": Case(
        answer=silent(head(200, ("Content-Length", SIZE)), 1000), **NETWORK, settings={"timeout": 0.3}
    ),
    "a length that is too large": Case(answer=lengths(SIZE + 5), **NETWORK, but=SIZED),
    "a length that is too small": Case(answer=lengths(SIZE - 5), but=SIZED | MISTRUSTED, only=KNOWN),
    "two lengths that differ": Case(answer=lengths(SIZE, SIZE - 5), **NETWORK),
    "two lengths that differ, the smaller first": Case(answer=lengths(SIZE - 5, SIZE), **NETWORK),
    "two lengths that agree": Case(answer=lengths(SIZE, SIZE)),
    "a negative length": Case(answer=lengths(-5), **NETWORK),
    "a length that is no number": Case(answer=lengths("many"), **NETWORK),
    "a length in a list": Case(answer=lengths(f"{SIZE}, {SIZE}")),
    "a length of 2**63": Case(answer=lengths(2**63), always="http"),
    "a length of 40 digits": Case(answer=lengths("9" * 40), **NETWORK),
    "a length with a plus": Case(answer=lengths(f"+{SIZE}"), **NETWORK),
    "a length of zero": Case(
        answer=lengths(0, body=b""), but=SIZED | MISTRUSTED | {"always, cut, checksum": "http"}, only=KNOWN
    ),
    "more bytes than the length": Case(answer=lengths(SIZE, more=b"HTTP/1.1 200 OK\r\n\r\nrubbish")),
    "chunks": Case(answer=chunked(BODY)),
    "chunks and a length": Case(answer=chunked(BODY, fields=(("Content-Length", 5),))),
    "chunks named with a tab": Case(answer=chunked(BODY, named=("chunked\t",))),
    "chunks named in a list": Case(answer=chunked(BODY, named=("Chunked , , identity",))),
    "chunks named twice": Case(answer=chunked(BODY, named=("chunked", "chunked"))),
    "chunks named on a second line": Case(answer=chunked(BODY, named=("chunked", "identity"))),
    "chunks named on a folded line": Case(answer=chunked(BODY, named=("\r\n chunked",))),
    "chunks below another transfer coding": Case(answer=chunked(BODY, named=("chunked", "gzip")), always="content"),
    "chunks of a transfer coding that is none": Case(answer=chunked(BODY, named=("\x0bchunked",)), always="content"),
    "chunks and more behind their end": Case(answer=chunked(BODY, end=b"0\r\n\r\nrubbish")),
    "a length and identity": Case(answer=lengths(SIZE, fields=(("Transfer-Encoding", "identity"),))),
    "rubbish behind the length": Case(answer=lengths(SIZE, more=b"rubbish")),
    "200 header fields": Case(answer=lengths(SIZE, fields=tuple((f"X-{n}", n) for n in range(200)))),
    "chunks without an end": Case(answer=chunked(BODY[:150_000], end=b""), **NETWORK),
    "chunks that are all there, without an end": Case(
        answer=chunked(BODY, end=b""),
        **NETWORK,
    ),
    "a chunk that is cut": Case(answer=chunked(BODY[:150_000], end=b"ffff\r\n" + BODY[150_000:150_003]), **NETWORK),
    "a chunk whose size is rubbish": Case(answer=chunked(BODY[:150_000], end=b"zz\r\nabc\r\n0\r\n\r\n"), **NETWORK),
    "a chunk of a monstrous size": Case(answer=chunked(BODY[:9], end=b"f" * 30 + b"\r\nabc\r\n"), **NETWORK),
    "a chunk of a negative size": Case(answer=chunked(BODY[:9], end=b"-5\r\nabc\r\n0\r\n\r\n"), **NETWORK),
    "chunks that end too early": Case(answer=chunked(BODY[:150_000]), **NETWORK, but=MISTRUSTED, only=KNOWN),
    "chunks that are too many": Case(answer=chunked(BODY, b"more"), but=SIZED | MISTRUSTED, only=KNOWN),
    "HTTP/1.0 without a length": Case(answer=close_delimited(SIZE)),
    "HTTP/1.0 with a length": Case(answer=lengths(SIZE)),
    "HTTP/1.0 without a length, cut": Case(answer=close_delimited(150_000), **NETWORK, but=MISTRUSTED, only=KNOWN),
    "HTTP/1.1 without a length": Case(answer=close_delimited(SIZE, "HTTP/1.1")),
    "a flipped byte": Case(answer=flipped(200_000), always="checksum", only=CHECKED),
    "a flipped first byte": Case(
        answer=flipped(0), always="checksum", but={"always, cut, checksum": "right"}, only=CHECKED
    ),
}
SOME = effort(
    ("new", "cut, ETag", "cut, checksum"), ("new", "new, size", "new, checksum", "cut, ETag", "cut, checksum")
)
ON_LANE = effort(("cut, ETag", "cut, checksum"), SOME)
"""The fast lane receives bodies; a new product's differs from a partial's only in where it begins."""
EVERYWHERE = {name for name in CASES if "every" in name} | {
    "a close before the body",
    "a cut before the last byte",
    "a length that is too large",
    "chunks",
    "chunks that are all there, without an end",
    "HTTP/1.0 without a length",
}
"""Cases that depend on how a partial is resumed; the others behave alike in every mode."""


@pytest.mark.thorough
@pytest.mark.parametrize("name", CASES)
async def test_a_product_is_right_or_a_named_failure_after(name: str, tmp_path: Path):
    await survive(in_most(CASES[name]) if name in EVERYWHERE else among(SOME, CASES[name]), tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("name", CASES)
async def test_a_product_on_the_fast_lane_is_right_or_a_named_failure_after(name: str, tmp_path: Path):
    await survive(among(ON_LANE, CASES[name]), tmp_path, lane="16K")


def among(modes: Sequence[str], case: Case) -> Case:
    return replace(case, only=tuple(mode for mode in case.only if mode in modes))
