"""An extra connection gets a hostile response: the first one completes the product, and nothing is spliced."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from bulkdl.transfer import body_reader, segment_scaling
from tests.harness import Place, body_of, sha256
from tests.servers import RawRequest, RawServer, Responder, Wire, announce, hang, head, html, redirect, reply, reset

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 1_200_000
BODY, OTHER = body_of(SIZE, 3), body_of(SIZE, 4)
E1 = ("ETag", '"1"')


def part(body: bytes = BODY, *, shift: int = 0, label_shift: int = 0, total: int = SIZE, count: int | None = None,
         fields: tuple[tuple[str, object], ...] = (E1,)) -> Responder:  # fmt: skip
    """Return a responder for the requested range, shifted or mislabelled if so configured."""

    async def respond(request: RawRequest, wire: Wire) -> None:
        start, stop = request.range(SIZE) or (0, SIZE)
        label = f"bytes {start + label_shift}-{stop - 1}/{total}"
        said = (("Content-Length", stop - start - label_shift), ("Content-Range", label), ("Connection", "close"))
        sent = body[start + shift : stop + shift]
        await wire.send(head(206, *said, *fields) + (sent if count is None else sent[:count]))

    return respond


HOSTILE: dict[str, Responder] = {
    "a close": announce(SIZE, b""),
    "a reset": reset(5, b""),
    "silence": hang(),
    "the range is ignored": reply(200, BODY, E1),
    "another edition": reply(200, OTHER, ("ETag", '"2"')),
    "a range of another edition": part(OTHER, fields=(("ETag", '"2"'),)),
    "a range of another total": part(total=SIZE + 1),
    "a range that begins elsewhere": part(label_shift=1, shift=1),
    "a range that is cut at once": part(count=0),
    "a range that is cut": part(count=1000),
    "a range without Content-Range": reply(206, BODY[:1000], E1),
    "several parts": reply(206, BODY, E1, ("Content-Type", "multipart/byteranges; boundary=x")),
    "a gzip of the range": part(fields=(E1, ("Content-Encoding", "gzip"))),
    "a gzip of the whole": reply(200, gzip.compress(BODY, 1), E1, ("Content-Encoding", "gzip")),
    "a page": html(),
    "a page behind a redirect": redirect("/login"),
    "a redirect for ever": redirect("?"),
    **{str(status): reply(status) for status in (202, 204, 401, 403, 404, 416, 429, 500, 503)},
    "429 for an hour": reply(429, b"", ("Retry-After", "3600")),
}


@dataclass(slots=True)
class OneGood:
    """The first connection sends half, then waits for the hostile response on another connection."""

    hostile: Responder
    met: asyncio.Event = field(default_factory=asyncio.Event)
    begun: bool = False
    over: bool = False
    """Set when the first connection has sent everything; later requests belong to another attempt."""

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        if not self.begun:
            self.begun = True
            fields = (("Content-Length", SIZE), ("Accept-Ranges", "bytes"), ("Connection", "close"), E1)
            await wire.send(head(200, *fields) + BODY[: SIZE // 4])
            while not self.met.is_set():  # the rate must be measured before the product is split
                await wire.send(b"")
                await asyncio.wait([asyncio.ensure_future(self.met.wait())], timeout=0.05)
            await wire.send(BODY[SIZE // 4 :])
            self.over = True
        elif request.range(SIZE) is None and not request.path.startswith("/login"):
            await reply(200, BODY, E1)(request, wire)
        elif self.over:
            await part()(request, wire)
        else:
            self.met.set()
            await self.hostile(request, wire)


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_product_is_right_although_a_further_connection_meets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With an ETag alone, and with a checksum too."""
    monkeypatch.setattr(body_reader, "RATE_S", 0.001)
    keen = {"MIN_SPLIT": 65_536, "MIN_SPLIT_S": 0.001, "LOOK_AGAIN_S": 0.02}
    keen |= {"PIECE": 100_000, "PIECE_S": 0.001, "REQUEST_COSTS": 0}
    for constant, value in keen.items():
        monkeypatch.setattr(segment_scaling, constant, value)
    sides = {"tagged": OneGood(HOSTILE[name]), "summed": OneGood(HOSTILE[name])}

    async def respond(request: RawRequest, wire: Wire) -> None:
        await sides["summed" if "summed" in request.path else "tagged"](request, wire)

    place = Place(tmp_path, segments=3, timeout=2.0)
    async with RawServer(respond) as server:
        products = [{"url": server.url(f"/{side}"), "file": side} for side in sides]
        done = await place.run(products[0], {**products[1], "checksum": sha256(BODY)})
    assert all(side.met.is_set() for side in sides.values())
    assert (done.code, place.names()) == (0, ["summed", "tagged"]), done.result.failures
    assert {place.file(side) for side in sides} == {BODY}
