"""Outages of the demo archive and of its token endpoint, one after the other, by a clock that runs fast meanwhile."""

from __future__ import annotations

from contextlib import contextmanager
from email.utils import formatdate
from enum import StrEnum
from typing import TYPE_CHECKING

from aiohttp import web

from bulkdl.core.fast_dataclass import dataclass

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator

    from aiohttp.typedefs import Handler

    from bulkdl.demo_server.demo_clock import DemoClock

__all__ = ["OutageRecord", "OutageRehearsal", "Part", "PlannedOutage"]

_OUTAGE_S = 120.0
_SPEED = 40.0
"""An outage of two minutes is noticed after about three, since the pauses between probes double: 5 s for the user."""
_PAGE = "<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"


class Part(StrEnum):
    """Part of the demo that can be out of order."""

    ARCHIVE = "archive"
    """All products: 503 with a page, and the connections that carry a product break."""
    TOKEN_ENDPOINT = "token endpoint"
    """The first token endpoint: 502 with a page."""

    @property
    def status(self) -> int:
        """Status of its answers during an outage."""
        return 503 if self is Part.ARCHIVE else 502

    @property
    def heading(self) -> str:
        return "Down for maintenance" if self is Part.ARCHIVE else "Bad Gateway"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedOutage:
    part: Part
    after: int
    """The outage begins with the first request to the part after this many products have been sent."""
    lasts_s: float = _OUTAGE_S
    """Seconds of the demo's clock."""


@dataclass(slots=True)
class OutageRecord:
    """An outage that has begun."""

    planned: PlannedOutage
    began: float
    """Monotonic time of the demo's clock."""
    refused: int = 0
    """Requests that got no good answer."""
    is_noticed: bool = False
    """True from the first good answer after its end."""


class OutageRehearsal:
    """Outages in their order, each by its progress, so that all of them happen however fast the run is.

    The clock runs `speed` times as fast from the first request that is refused to the first good answer after the outage:
    the pauses between the requests of a run grow, so that it notices the end later than it comes.
    """

    def __init__(self, planned: Iterable[PlannedOutage], *, clock: DemoClock, speed: float = _SPEED) -> None:
        self.clock = clock
        self.speed = speed
        self.held: list[OutageRecord] = []
        self._planned = list(planned)
        self._connections: set[asyncio.Transport] = set()
        """Connections on which a request for a product is in progress."""

    def install(self, app: web.Application, part_of: Callable[[str], Part | None], sent: Callable[[], int]) -> None:
        """Refuse requests to `app` during an outage. `part_of` tells the part from a path, `sent` counts products."""

        @web.middleware
        async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
            part = part_of(request.path)
            if part is not None and self._refuses(part, sent):
                return self._page(part)
            with self._progress(request, part):
                return await handler(request)

        async def prepared(request: web.Request, response: web.StreamResponse) -> None:
            part = part_of(request.path)
            if part is not None:
                self._answered(part, is_good=response.status < 300)

        app.middlewares.append(answer)
        app.on_response_prepare.append(prepared)

    @property
    def _lasting(self) -> OutageRecord | None:
        return self.held[-1] if self.held and not self.held[-1].is_noticed else None

    def _refuses(self, part: Part, sent: Callable[[], int]) -> bool:
        """Return whether a request to `part` meets an outage; an outage may begin with it."""
        lasting = self._lasting
        if lasting is None:
            if not self._planned or self._planned[0].part is not part or sent() < self._planned[0].after:
                return False
            lasting = self._begin(self._planned.pop(0))
        if lasting.planned.part is not part:
            return False
        if self._is_over(lasting):
            self.clock.speed = 1.0  # what the archive checks next, such as the age of a token, needs its usual time
            return False
        lasting.refused += 1
        return True

    def _answered(self, part: Part, *, is_good: bool) -> None:
        """Look at an answer to `part`: the first good one after an outage ends the rehearsal of it."""
        lasting = self._lasting
        if lasting is None or lasting.planned.part is not part:
            return
        lasting.is_noticed = is_good and self._is_over(lasting)
        self.clock.speed = 1.0 if lasting.is_noticed else self.speed

    def _is_over(self, record: OutageRecord) -> bool:
        return self.clock.monotonic() - record.began >= record.planned.lasts_s

    def _begin(self, planned: PlannedOutage) -> OutageRecord:
        record = OutageRecord(planned, self.clock.monotonic())
        self.held.append(record)
        self.clock.speed = self.speed
        if planned.part is Part.ARCHIVE:
            for connection in self._connections:
                connection.abort()
        return record

    def _page(self, part: Part) -> web.Response:
        # A run compares its clock with this field of a token endpoint.
        headers = {"Date": formatdate(self.clock.wall(), usegmt=True)}
        text = _PAGE.format(title=part.heading)
        return web.Response(status=part.status, text=text, content_type="text/html", headers=headers)

    @contextmanager
    def _progress(self, request: web.Request, part: Part | None) -> Iterator[None]:
        connection = request.transport if part is Part.ARCHIVE else None
        if connection is None:
            yield
            return
        self._connections.add(connection)
        try:
            yield
        finally:
            self._connections.discard(connection)
