"""A server is asked about a product without its body."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.harness import Place, body_of
from tests.servers import RawRequest, RawServer, Wire, head, ranges

if TYPE_CHECKING:
    from pathlib import Path

BODY = body_of(5000, 7)


async def closed(request: RawRequest, wire: Wire) -> None:
    """Break the connection of a HEAD."""


async def with_body(request: RawRequest, wire: Wire) -> None:
    """Answer a HEAD with the body as well."""
    await wire.send(head(200, ("Content-Length", len(BODY))) + BODY)
    wire.keep()


async def reset(request: RawRequest, wire: Wire) -> None:
    wire.reset()


@pytest.mark.parametrize("answer", [closed, with_body, reset])
async def test_a_head_that_breaks_its_connection_is_no_trouble(answer, tmp_path: Path):
    async def respond(request: RawRequest, wire: Wire) -> None:
        await (answer if request.method == "HEAD" else ranges(BODY))(request, wire)

    place = Place(tmp_path)
    place.root.mkdir(parents=True, exist_ok=True)
    (place.root / "a.bin").write_bytes(BODY)  # an unknown file: the archive is asked for its size
    async with RawServer(respond) as server:
        done = await place.run({"url": server.url(), "file": "a.bin"})
        assert (done.code, done.result.skipped) == (0, 1), done.result.failures
        assert server.log[0].method == "HEAD"
