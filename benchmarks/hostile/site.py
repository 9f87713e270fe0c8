"""A misbehaving archive of one product: answers are plain data, and one function sends them."""

from __future__ import annotations

import asyncio
import io
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from enum import Enum

from tests.servers import RawRequest, Wire, head

__all__ = ["Answer", "Behaviour", "End", "Marks", "Site", "bytes_of", "honest", "zip_of"]

PIECE = 64 * 1024
_FIRST_DATE, _SECOND_DATE = (formatdate(at, usegmt=True) for at in (1_750_000_000, 1_750_003_600))


def bytes_of(size: int, seed: int) -> bytes:
    """Return the same `size` bytes for the same `seed`, of no known file format."""
    return random.Random(seed).randbytes(size) if size == 0 else b"\x00" + random.Random(seed).randbytes(size - 1)


def zip_of(size: int, seed: int) -> bytes:
    """Return a ZIP of one stored member of `size` bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("measurement.bin"), bytes_of(size, seed))
    return out.getvalue()


class End(Enum):
    """End of the connection after an answer."""

    KEEP = "keep"
    CLOSE = "close"
    RESET = "reset"
    STALL = "stall"


class Marks(Enum):
    """The validators by which the archive distinguishes versions."""

    STRONG = "a strong ETag"
    WEAK = "a weak ETag"
    NONE = "nothing"
    DATE = "Last-Modified only"
    LYING = "an ETag that stays the same"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; `fields` are sent unchanged, with or without `Content-Length`."""

    status: int
    fields: tuple[tuple[str, object], ...]
    body: bytes
    version: str = "HTTP/1.1"
    end: End = End.KEEP

    def cut(self, at: int, end: End = End.CLOSE) -> Answer:
        """Return this answer with only the first `at` bytes of its body."""
        return replace(self, body=self.body[:at], end=end)

    def told(self, **fields: object) -> Answer:
        """Return this answer with other fields: `None` removes a field, `X_Y` stands for `X-Y`."""
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        kept = tuple(pair for pair in self.fields if pair[0] not in named)
        return replace(self, fields=kept + tuple((k, v) for k, v in named.items() if v is not None))

    def carrying(self, body: bytes) -> Answer:
        """Return this answer with another body and its length."""
        return replace(self.told(Content_Length=len(body)), body=body)


Behaviour = Callable[["Site", RawRequest, int], Answer]
"""Function from a request to an answer. The request's number starts at 0 in each act; probes (HEAD, one byte) do not
count."""


@dataclass(slots=True, eq=False)
class Site:
    """One product in two versions. A responder of `tests.servers.RawServer`."""

    editions: tuple[bytes, bytes]
    marks: Marks = Marks.STRONG
    behave: Behaviour = lambda site, request, _number: honest(site, request)
    edition: int = 0
    pace: float | None = None
    """Rate of each connection (bytes/s); None: unlimited."""
    outside: str = "/nowhere"
    """A folder that no product may reach."""
    count: int = 0
    resumed: bool = False
    """A request of this act asked for a range after the first byte."""
    stalled: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, behave: Behaviour, *, edition: int = 0) -> None:
        """Start the next act."""
        self.behave, self.edition = behave, edition
        self.count, self.resumed = 0, False
        self.stalled.clear()

    def now(self, edition: int) -> Site:
        """Return the same archive with another version of the product, for one answer."""
        return replace(self, edition=edition)

    @property
    def body(self) -> bytes:
        return self.editions[self.edition]

    @property
    def validators(self) -> tuple[tuple[str, object], ...]:
        date = (_FIRST_DATE, _SECOND_DATE)[self.edition]
        return {
            Marks.STRONG: (("ETag", f'"e{self.edition}"'), ("Last-Modified", date)),
            Marks.WEAK: (("ETag", f'W/"e{self.edition}"'),),
            Marks.NONE: (),
            Marks.DATE: (("Last-Modified", date),),
            Marks.LYING: (("ETag", '"same"'),),
        }[self.marks]

    def agrees(self, if_range: str | None) -> bool:
        """Return True if an `If-Range` condition holds (RFC 9110 §13.1.5); one with a weak ETag never does."""
        strong = {str(value) for _, value in self.validators if not str(value).startswith("W/")}
        return if_range is None or if_range in strong

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        number = self.count
        if request.method != "HEAD" and request.header("Range") != "bytes=0-0":
            self.count += 1
        part = request.range(len(self.body))
        self.resumed |= part is not None and part[0] > 0
        answer = self.behave(self, request, number)
        await self._send(answer, request, wire)

    async def _send(self, answer: Answer, request: RawRequest, wire: Wire) -> None:
        fields = (*answer.fields, ("Date", formatdate(usegmt=True)))
        closing = answer.end in {End.CLOSE, End.RESET} or answer.version == "HTTP/1.0"
        if closing:
            fields += (("Connection", "close"),)
        await wire.send(head(answer.status, *fields, version=answer.version))
        if request.method == "HEAD":
            return
        await self._body(answer.body, wire)
        if answer.end is End.RESET:
            await asyncio.sleep(0.05)  # a reset must not overtake what was sent before it
            wire.reset()
        elif answer.end is End.STALL:
            self.stalled.set()
            await wire.hang()
        elif not closing:
            wire.keep()

    async def _body(self, body: bytes, wire: Wire) -> None:
        if self.pace is None:
            await wire.send(body)
            return
        for at in range(0, len(body), PIECE):
            if wire.writer.is_closing():
                return
            await wire.send(body[at : at + PIECE])
            await asyncio.sleep(PIECE / self.pace)


def honest(site: Site, request: RawRequest) -> Answer:
    """Answer as RFC 9110 specifies: ranges, `If-Range`, 416."""
    body = site.body
    part = request.range(len(body)) if site.agrees(request.header("If-Range")) else None
    common = (("Accept-Ranges", "bytes"), ("Content-Type", "application/octet-stream"), *site.validators)
    if part is None:
        return Answer(200, (("Content-Length", len(body)), *common), body)
    start, stop = part
    if start >= stop:
        return Answer(416, (("Content-Length", 0), ("Content-Range", f"bytes */{len(body)}")), b"")
    span = ("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}")
    return Answer(206, (("Content-Length", stop - start), span, *common), body[start:stop])
