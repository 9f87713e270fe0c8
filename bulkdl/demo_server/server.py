"""Demo archive: an HTTP server on loopback that follows RFC 9110 unless a fault is configured."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from aiohttp import web

from bulkdl.core.clock import Clock, SystemClock
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.demo_server.access import Access, Given, given
from bulkdl.demo_server.catalog import Catalogue, Item
from bulkdl.demo_server.faults import (
    Chunked,
    Cut,
    Delay,
    Effect,
    Fault,
    FaultPlan,
    Flip,
    IgnoreRange,
    LoginPage,
    NewEdition,
    Preparing,
    Refuse,
    ShiftRange,
    Stall,
    Validate,
)
from bulkdl.demo_server.range_requests import Part, Unsatisfiable, Whole, select, validator_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from ssl import SSLContext
    from types import TracebackType

__all__ = ["Archive", "IdentityServer", "Record", "Route"]

_BLOCK = 256 * 1024
_OPEN = Access()
_REALM = "/auth/realms/{}/protocol/openid-connect"
_LOGIN_PAGE = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><form>User name</form></body></html>\n"
_E = TypeVar("_E")


class IdentityServer(Protocol):
    """Identity server, mounted under `/auth/realms/REALM/protocol/openid-connect`; `…/token` is its token endpoint."""

    def app(self) -> web.Application: ...

    def check(self, token: str) -> bool: ...


class Route(StrEnum):
    """URL routes of a product."""

    DOWNLOAD = "download"
    """`/download/{id}`: `Content-Disposition` gives the name."""
    FILES = "files"
    """`/files/{name}`."""
    CATALOGUE = "catalogue"
    """`/catalogue/{id}`: open to everyone, 302 to `/download/{id}` on the same port."""
    ELSEWHERE = "elsewhere"
    """`/elsewhere/{id}`: like `CATALOGUE`, but the redirect leads to the second port, which is another origin."""


@dataclass(slots=True, kw_only=True)
class Record:
    """Request received by the archive, for assertions."""

    method: str
    path: str
    """URL path without the query."""
    item: str
    """Name of the product, "" if there is none."""
    origin: str
    range: str | None
    if_range: str | None
    given: Given
    headers: Mapping[str, str] = field(repr=False)
    status: int = 0
    bytes_sent: int = 0
    """Body bytes written to the socket."""
    effects: tuple[Effect, ...] = ()

    @property
    def had_credential(self) -> bool:
        return self.given is not Given.NONE


class Archive:
    """Archive on 127.0.0.1 that runs inside `async with`.

    `access` maps a prefix of product names to the accepted credentials. The longest prefix applies; a product without
    one is open. `rate` limits each connection, in bytes per second. `delay` is the time before each response, in
    seconds. All of these may change while it runs: `put` an item, `faults.add(...)`, `access[...] = ...`, `rate`,
    `delay`. The identity server is mounted once for each of `realms`. `extend` may add middlewares before the start.
    """

    def __init__(
        self,
        items: Iterable[Item] = (),
        *,
        access: Mapping[str, Access] | None = None,
        faults: Iterable[Fault] = (),
        identity: IdentityServer | None = None,
        rate: float | None = None,
        delay: float = 0.0,
        port: int = 0,
        clock: Clock | None = None,
        ssl_context: SSLContext | None = None,
        realms: Sequence[str] = ("demo",),
        extend: Callable[[web.Application], None] | None = None,
    ) -> None:
        self.items = Catalogue(items)
        self.access = dict(access or {})
        self.faults = FaultPlan(faults)
        self.rate = rate
        self.delay = delay
        self.log: list[Record] = []
        self._identity = identity
        self._port = port
        self._clock = clock or SystemClock()
        self._ssl = ssl_context
        self._realms = [_REALM.format(name) for name in realms]
        self._extend = extend
        self._origins: list[str] = []
        self._active: Counter[str] = Counter()
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        self._runner = web.AppRunner(
            self._application(), handler_cancellation=True, access_log=None, shutdown_timeout=0.5
        )
        await self._runner.setup()
        for port in (self._port, 0):
            site = web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=self._ssl)
            await site.start()
        scheme = "http" if self._ssl is None else "https"
        ports = [port for _, port in self._runner.addresses]
        self._origins = [f"{scheme}://127.0.0.1:{ports[0]}", f"{scheme}://localhost:{ports[1]}"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def origin(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return self._origins[0]

    @property
    def other_origin(self) -> str:
        """Second origin of the same archive: `http://localhost:PORT`."""
        return self._origins[1]

    @property
    def token_urls(self) -> list[str]:
        """URLs of the token endpoint, one for each realm."""
        return [f"{self.origin}{realm}/token" for realm in self._realms]

    @property
    def token_url(self) -> str:
        return self.token_urls[0]

    @property
    def bytes_sent(self) -> int:
        """Total body bytes of products sent so far."""
        return sum(record.bytes_sent for record in self.log)

    def url(self, item: Item | str, route: Route = Route.FILES) -> str:
        """Return the URL of a product, given as item or name."""
        found = self.items[item] if isinstance(item, str) else item
        key = found.name if route is Route.FILES else found.id
        return f"{self.origin}/{route}/{key}"

    def put(self, item: Item) -> Item:
        """Add a product, or replace the one of the same name."""
        self.items.put(item)
        return item

    def requests(self, item: Item | str, method: str = "GET") -> list[Record]:
        """Return the requests for one product, without redirects."""
        name = item if isinstance(item, str) else item.name
        return [r for r in self.log if r.item == name and r.method == method and r.status != 302]

    def _application(self) -> web.Application:
        app = web.Application()
        if self._extend is not None:
            self._extend(app)
        app.router.add_get("/download/{id}", self._download)
        app.router.add_get("/files/{name}", self._files)
        app.router.add_get("/catalogue/{id}", self._redirect)
        app.router.add_get("/elsewhere/{id}", self._redirect)
        if self._identity is not None:
            for realm in self._realms:
                app.add_subapp(realm, self._identity.app())
        return app

    async def _download(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, self.items.with_id(request.match_info["id"]), Route.DOWNLOAD)

    async def _files(self, request: web.Request) -> web.StreamResponse:
        return await self._serve(request, self.items.named(request.match_info["name"]), Route.FILES)

    async def _redirect(self, request: web.Request) -> web.StreamResponse:
        item = self.items.with_id(request.match_info["id"])
        record = self._record(request, item)
        origin = record.origin
        if request.path.startswith("/elsewhere/"):
            origin = next(o for o in self._origins if o != record.origin)
        record.status = 302
        return web.Response(status=302, headers={"Location": f"{origin}/download/{request.match_info['id']}"})

    def _record(self, request: web.Request, item: Item | None) -> Record:
        access = self._access(item.name) if item else _OPEN
        record = Record(
            method=request.method,
            path=request.path,
            item=item.name if item else "",
            origin=next(o for o in self._origins if o.endswith(f":{_port(request)}")),
            range=request.headers.get("Range"),
            if_range=request.headers.get("If-Range"),
            given=given(request, access.query_param),
            headers=request.headers,
        )
        self.log.append(record)
        return record

    def _access(self, name: str) -> Access:
        matching = [prefix for prefix in self.access if name.startswith(prefix)]
        return self.access[max(matching, key=len)] if matching else _OPEN

    async def _serve(self, request: web.Request, item: Item | None, route: Route) -> web.StreamResponse:
        record = self._record(request, item)
        if self.delay:
            await self._clock.sleep(self.delay)
        if item is None:
            return _plain(record, 404, "no such product")
        access = self._access(item.name)
        refusal = access.refuses(request)
        if refusal is not None:
            challenge = {"WWW-Authenticate": refusal.challenge} if refusal.challenge else {}
            return _plain(record, refusal.status, "not authorised", challenge)
        with self._connection(access) as admitted:
            if not admitted:
                return _plain(record, 429, "too many connections", _retry_after(access.retry_after))
            return await self._answer(request, record, item, route)

    @contextmanager
    def _connection(self, access: Access) -> Iterator[bool]:
        if access.max_connections is not None and self._active[access.account] >= access.max_connections:
            yield False
            return
        self._active[access.account] += 1
        try:
            yield True
        finally:
            self._active[access.account] -= 1

    async def _answer(self, request: web.Request, record: Record, item: Item, route: Route) -> web.StreamResponse:
        wanted = select(item, record.range, record.if_range)
        length = wanted.stop - wanted.start if isinstance(wanted, Part) else item.size
        effects = self.faults.take(item.name, length) if request.method == "GET" else ()
        record.effects = effects
        for effect in effects:
            if isinstance(effect, Delay):
                await self._clock.sleep(effect.seconds)
            replacement = _replacement(record, effect)
            if replacement is not None:
                return replacement
        if _find(effects, NewEdition):
            item = self.put(item.next_edition())
            wanted = select(item, record.range, record.if_range)
        if validate := _find(effects, Validate):
            item = replace(item, validators=validate.validators)
            wanted = select(item, record.range, record.if_range)
        if _find(effects, IgnoreRange):
            wanted = Whole()
        if isinstance(wanted, Unsatisfiable):
            return _plain(record, 416, "no such range", {"Content-Range": f"bytes */{item.size}"})
        if (shift := _find(effects, ShiftRange)) and isinstance(wanted, Part):
            wanted = Part(min(wanted.start + shift.by, wanted.stop - 1), wanted.stop)
        return await self._send(request, record, item, wanted, _head(item, wanted, route))

    async def _send(
        self, request: web.Request, record: Record, item: Item, wanted: Whole | Part, response: web.StreamResponse
    ) -> web.StreamResponse:
        record.status = response.status
        start, stop = (wanted.start, wanted.stop) if isinstance(wanted, Part) else (0, item.size)
        if _find(record.effects, Chunked):
            response.enable_chunked_encoding()
        else:
            response.content_length = stop - start
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        cut = _cut_at(record.effects)
        with suppress(ConnectionError):  # the client closed the connection, which is allowed
            await self._stream(response, record, item, start, stop if cut is None else min(stop, start + cut))
            if cut is not None and cut < stop - start:
                await self._break_off(request, record.effects)
        return response

    async def _stream(self, response: web.StreamResponse, record: Record, item: Item, start: int, stop: int) -> None:
        flip = _find(record.effects, Flip)
        position = start
        while position < stop:
            # Read `rate` for each block, so that it may change during a body.
            block = _BLOCK if self.rate is None else max(1024, min(_BLOCK, int(self.rate / 20)))
            data = item.read(position, min(position + block, stop))
            if flip and position <= flip.at < position + len(data):
                at = flip.at - position
                data = data[:at] + bytes((data[at] ^ 0xFF,)) + data[at + 1 :]
            await response.write(data)
            position += len(data)
            record.bytes_sent += len(data)
            if self.rate is not None:
                await self._clock.sleep(len(data) / self.rate)

    async def _break_off(self, request: web.Request, effects: tuple[Effect, ...]) -> None:
        if _find(effects, Stall):
            await self._closing.wait()
        transport = request.transport
        if transport is None:
            return
        cut = _find(effects, Cut)
        if cut and cut.reset:
            # SO_LINGER 0 makes abort send a reset instead of an orderly end (RFC 9293 §3.5.2).
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()


def _find(effects: tuple[Effect, ...], kind: type[_E]) -> _E | None:
    return next((effect for effect in effects if isinstance(effect, kind)), None)


def _cut_at(effects: tuple[Effect, ...]) -> int | None:
    for effect in effects:
        match effect:
            case Cut(after=after) | Stall(after=after) | Chunked(cut_after=int(after)):
                return after
    return None


def _port(request: web.Request) -> int:
    assert request.transport is not None
    return int(request.transport.get_extra_info("sockname")[1])


def _replacement(record: Record, effect: Effect) -> web.Response | None:
    match effect:
        case Refuse(status=status, retry_after=wait):
            return _plain(record, status, "come back later", _retry_after(wait))
        case Preparing(retry_after=wait):
            return _plain(record, 202, "the product is being prepared", _retry_after(wait))
        case LoginPage():
            record.status = 200
            return web.Response(text=_LOGIN_PAGE, content_type="text/html")
        case _:
            return None


def _retry_after(value: str | None) -> dict[str, str]:
    return {} if value is None else {"Retry-After": value}


def _plain(record: Record, status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    record.status = status
    return web.json_response({"message": message}, status=status, headers=headers)


def _head(item: Item, wanted: Whole | Part, route: Route) -> web.StreamResponse:
    headers = {"Accept-Ranges": "bytes", "Content-Type": item.kind.media_type, **validator_headers(item)}
    if route is Route.DOWNLOAD:
        headers["Content-Disposition"] = f'attachment; filename="{item.name}"'
    if isinstance(wanted, Part):
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{item.size}"
    return web.StreamResponse(status=206 if isinstance(wanted, Part) else 200, headers=headers)
