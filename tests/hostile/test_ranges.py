"""Ignored, wrong or refused ranges, and products that change between two requests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.hostile.scenes import BODY, CUT, MODES, OTHER, SIZE, Case, Turn, in_most, survive
from tests.servers import head

if TYPE_CHECKING:
    from pathlib import Path

NEW = tuple(mode for mode in MODES if mode.startswith("new"))
CONTINUED = tuple(mode for mode in MODES if mode.startswith("cut") and "weak" not in mode)
"""Modes in which a partial can be resumed with a range request."""
UNCHECKED = tuple(mode for mode in MODES if not MODES[mode].checked)
LABELLED = ("cut, ETag", "cut, date")
CAUGHT = {f"always, {mode}": "checksum" for mode in ("new, checksum", "cut, checksum")}


def partial(*, shift: int = 0, shorter: int = 0, total: object = SIZE, more: bytes = b"", **how: object):
    """Send a 206 that differs from the requested range; without `Range`, send the whole product."""

    async def answer(turn: Turn) -> None:
        if turn.asked is None:
            await turn.orderly()
            return
        start, stop = turn.asked
        start, stop = start + shift, stop - shorter
        label = ("Content-Range", f"bytes {start}-{stop - 1}/{total}")
        await turn.send(206, BODY[start:stop] + more, label, *turn.mode.fields, **how)

    return answer


def labelled(*labels: str, kind: str = "application/octet-stream"):
    """Send the right bytes of a range with these `Content-Range` fields."""

    async def answer(turn: Turn) -> None:
        if turn.asked is None:
            await turn.orderly()
            return
        start, stop = turn.asked
        texts = [label.format(start=start, last=stop - 1, size=SIZE) for label in labels]
        fields = [("Content-Type", kind), *(("Content-Range", text) for text in texts)]
        await turn.send(206, BODY[start:stop], *fields, *turn.mode.fields)

    return answer


async def ignored(turn: Turn) -> None:
    await turn.whole()


async def ignored_and_nameless(turn: Turn) -> None:
    await turn.send(200, BODY)


async def unasked(turn: Turn) -> None:
    await turn.part(*(turn.asked or (0, SIZE)))


def rest(*more: tuple[str, object], own: bool = True, is_chunked: bool = False):
    """Send the rest in answer to a range, but as a 200, as scripts do that forget the status."""

    async def answer(turn: Turn) -> None:
        if turn.asked is None:
            await turn.orderly()
            return
        body, fields = BODY[slice(*turn.asked)], [*more, *(turn.mode.fields if own else ())]
        if is_chunked:
            first = head(200, ("Transfer-Encoding", "chunked"), ("Connection", "close"), *fields)
            await turn.wire.send(first + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        else:
            await turn.send(200, body, *fields)

    return answer


async def part_as_whole(turn: Turn) -> None:
    await turn.send(200, BODY[:1000], ("Content-Range", f"bytes 0-999/{SIZE}"), *turn.mode.fields)


async def from_zero(turn: Turn) -> None:
    await turn.part(0, SIZE)


def refused(*fields: tuple[str, object], always: bool = False):
    async def answer(turn: Turn) -> None:
        await (turn.send(416, b"", *fields) if turn.asked or always else turn.orderly())

    return answer


async def changed(turn: Turn) -> None:
    """Send another version, from an archive that follows HTTP."""
    await turn.orderly(OTHER)


async def changed_carelessly(turn: Turn) -> None:
    """Send ranges of another version with its own validators, ignoring `If-Range`."""
    await (turn.part(*turn.asked, OTHER) if turn.asked else turn.whole(OTHER))


async def changed_with_its_length(turn: Turn) -> None:
    """Send a shorter version; only the length reveals it."""
    shorter = OTHER[: SIZE - 1000]
    if turn.asked:
        start = turn.asked[0]
        await turn.send(206, shorter[start:], ("Content-Range", f"bytes {start}-{len(shorter) - 1}/{len(shorter)}"))
    else:
        await turn.send(200, shorter)


async def weakened(turn: Turn) -> None:
    """Send the same version with a weak ETag, as some proxies do."""
    fields = [(name, f"W/{value}" if name == "ETag" and value[0] == '"' else value) for name, value in turn.mode.fields]
    start, stop = turn.asked or (0, SIZE)
    if turn.asked:
        await turn.send(206, BODY[start:stop], ("Content-Range", f"bytes {start}-{stop - 1}/{SIZE}"), *fields)
    else:
        await turn.send(200, BODY, *fields)


def tagged(etag: str):
    """Cut the response after 50,000 bytes, with this ETag."""

    async def answer(turn: Turn) -> None:
        fields = (("ETag", etag),)
        start, stop = turn.asked or (0, SIZE)
        span = (("Content-Range", f"bytes {start}-{stop - 1}/{SIZE}"),) if turn.asked else ()
        await turn.send(206 if turn.asked else 200, BODY[start:stop][:50_000], *span, *fields, length=stop - start)

    return answer


OTHER_TAG = {f"always, {mode}": "network" for mode in ("cut, ETag", "cut, overlap")}
NO_TAG = {f"always, {m}": "network" for m in ("new", "new, nothing known", "new, size", "cut, weak ETag", "cut, date")}
"""Cases without a strong validator: each cut restarts the download and makes no progress."""
LONGER, SHORTER = ("Content-Range", f"bytes */{SIZE + 1}"), ("Content-Range", "bytes */5")
CASES = {
    "the range is ignored": Case(answer=ignored),
    "the range is ignored and nothing tells the edition": Case(answer=ignored_and_nameless),
    "a part of nothing that was asked, which is the whole": Case(answer=unasked),
    "a part from zero, which is the whole": Case(answer=from_zero),
    "the rest as a 200": Case(answer=rest()),
    "the rest as a 200 with a Content-Range": Case(answer=rest(("Content-Range", f"bytes {CUT}-{SIZE - 1}/{SIZE}"))),
    "the rest as a 200 with a broken Content-Range": Case(answer=rest(("Content-Range", f"{CUT}-/{SIZE}"))),
    "the rest as a 200 with another ETag": Case(answer=rest(("ETag", '"rest"'), own=False)),
    "the rest as a 200, chunked": Case(answer=rest(is_chunked=True)),
    "a part as a 200 to everything": Case(answer=part_as_whole, always="http"),
    "a part that begins later": Case(answer=partial(shift=1)),
    "a part that begins earlier": Case(answer=partial(shift=-1)),
    "a part that ends earlier": Case(answer=partial(shorter=1000), but={"always, cut, overlap": "network"}),
    "a part of a longer whole": Case(answer=partial(total=SIZE + 1)),
    "a part of a shorter whole": Case(answer=partial(total=SIZE - 1)),
    "a part of an unknown whole": Case(answer=partial(total="*")),
    "a part that is longer than it says": Case(answer=partial(more=b"more")),
    "a part that is longer than it says, without a length": Case(answer=partial(more=b"more", length=None)),
    "a part that is shorter than it says, without a length": Case(
        answer=partial(more=b"", length=None, total=SIZE), but={}
    ),
    "a part whose length is another": Case(answer=partial(length=SIZE - CUT - 7)),
    "a part without Content-Range": Case(answer=labelled()),
    "a part with the Content-Range of a 416": Case(answer=labelled("bytes */{size}")),
    "a part with a Content-Range that is rubbish": Case(answer=labelled("bytes abc")),
    "a part with a Content-Range backwards": Case(answer=labelled("bytes {last}-{start}/{size}")),
    "a part in another unit": Case(answer=labelled("items {start}-{last}/{size}")),
    "a part with two Content-Ranges that differ": Case(
        answer=labelled("bytes {start}-{last}/{size}", "bytes 0-{last}/{size}")
    ),
    "several parts": Case(answer=labelled("bytes {start}-{last}/{size}", kind="multipart/byteranges; boundary=X")),
    "416": Case(answer=refused()),
    "416 with the size": Case(answer=refused(("Content-Range", f"bytes */{SIZE}"))),
    "416 with a larger size": Case(answer=refused(LONGER)),
    "416 with a smaller size": Case(answer=refused(SHORTER)),
    "416 to everything": Case(answer=refused(always=True), always="http"),
    "another edition": Case(answer=changed, changed=True, but=CAUGHT),
    "another edition, its ranges sent carelessly": Case(answer=changed_carelessly, changed=True, but=CAUGHT),
    "an edition that is shorter, and nothing tells": Case(
        answer=changed_with_its_length,
        but={"always, new, size": "size"} | CAUGHT,
        only=("new, size", "new, checksum", "cut, checksum"),
    ),
    "a weakened ETag": Case(answer=weakened),
    "an ETag of letters that are no ASCII": Case(answer=tagged('"\xff\xe9"'), but=OTHER_TAG),
    "an ETag in UTF-8": Case(answer=tagged('"\xc3\xa9"'), but=OTHER_TAG),
    "an ETag without quotes": Case(answer=tagged("abc"), but=OTHER_TAG | NO_TAG),
    "an empty ETag": Case(
        answer=tagged(""), but=NO_TAG | {"always, cut, overlap": "network", "always, cut, date": "right"}
    ),
    "an ETag of 8000 letters": Case(answer=tagged(f'"{"e" * 8000}"'), but=OTHER_TAG),
    "an ETag with a tab": Case(answer=tagged('"a\tb"'), but=OTHER_TAG | NO_TAG),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", CASES)
async def test_no_two_editions_are_spliced_and_the_product_arrives_after(name: str, tmp_path: Path):
    await survive(in_most(CASES[name]), tmp_path)


@pytest.mark.parametrize("name", CASES)
async def test_two_versions_are_never_spliced_on_the_fast_lane_after(name: str, tmp_path: Path):
    modes = tuple(mode for mode in CASES[name].only if mode in {"cut, ETag", "cut, checksum", "cut, overlap"})
    await survive(replace(CASES[name], only=modes), tmp_path, lane="16K")
