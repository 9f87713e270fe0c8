"""An archive or a token endpoint that is out of order for a few seconds: the run waits, loses nothing, and says so."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from bulkdl.demo_server.token_server import EndpointFault
from tests.effort import effort
from tests.servers import RawServer, html, ranges, reply, reset

if TYPE_CHECKING:
    from tests.contract.program import Place, Site, Stage
    from tests.servers import RawRequest, Responder, Wire

PRODUCTS = 12
PATIENT = {"BULKDL_GIVE_UP_AFTER": "1h"}
BODY = b"x" * 3000
_OUTAGE_S = 2.0
FIELDS = ("origin", "kind", "began", "ended", "waiting")


class Failing:
    """Responder that serves the first products, is out of order for `_OUTAGE_S` seconds, then serves all others."""

    def __init__(self, fault: Responder, *, after: int) -> None:
        self._fault = fault
        self._after = after
        self.refused = 0
        self._until = float("inf")
        self.served: list[str] = []

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        now = time.monotonic()
        if len(self.served) < self._after or now >= self._until:
            self.served.append(request.path)
            await ranges(BODY)(request, wire)
            return
        if not self.refused:
            self._until = now + _OUTAGE_S
        self.refused += 1
        await self._fault(request, wire)


pytestmark = [pytest.mark.long, pytest.mark.thorough]

FAULTS: dict[str, tuple[Responder, str]] = {
    "503": (reply(503), "server error"),
    "502 with a page": (html(502), "server error"),
    "page": (html(200, "<!DOCTYPE html><html><title>Maintenance</title></html>"), "page"),
    "404 to everybody": (reply(404), "denied"),
    "403 to everybody": (reply(403), "denied"),
    "reset": (reset(3000, b"", status=200), "reset"),
}


def urls(server: RawServer) -> list[dict[str, Any]]:
    return [{"url": server.url(f"/p{n:02d}.bin"), "file": f"p{n:02d}.bin", "size": len(BODY)} for n in range(PRODUCTS)]


def told(outages: list[dict[str, Any]], origin: str) -> dict[str, Any]:
    """Return the only outage, after a look at its form."""
    (outage,) = outages
    assert set(outage) - {"account"} == set(FIELDS)
    assert outage["origin"] == origin
    began, ended = (datetime.fromisoformat(outage[name]) for name in ("began", "ended"))
    assert began.tzinfo is not None
    assert began <= ended
    return outage


@pytest.mark.parametrize("name", effort(["503", "403 to everybody"], list(FAULTS)))
def test_an_archive_out_of_order_in_the_middle_costs_no_product(name: str, stage: Stage, place: Place):
    fault, kind = FAULTS[name]
    archive = Failing(fault, after=4)
    with stage.running(RawServer(archive)) as server:
        place.write(urls(server))
        done = place.run("-j", "2", env=PATIENT)
        status = json.loads(place("status", "m.yaml", "--json").out)
        origin = server.origin
    assert (done.code, done.counts) == (0, {"completed": PRODUCTS}), done.err
    assert all(place.get(f"p{n:02d}.bin") == BODY for n in range(PRODUCTS))
    outage = told(done.summary["outages"], origin)
    assert outage["kind"] == kind
    assert told(status["outages"], origin)["kind"] == kind
    assert " is back after " in done.err
    assert archive.refused <= 10


class Overloaded:
    """Responder that sends half of `/slow`, and after six others answers 503 until `is_well` is set."""

    def __init__(self) -> None:
        self.is_well = False
        self.served = 0
        self.is_sending = False
        self.refused = 0

    async def __call__(self, request: RawRequest, wire: Wire) -> None:
        if self.is_well or (request.path != "/slow" and self.served < 6):
            self.served += 1
            await ranges(BODY)(request, wire)
        elif request.path == "/slow" and not self.is_sending:
            self.is_sending = True
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n" + bytes(2_000_000))
            while not self.is_well:  # noqa: ASYNC110 - set by another thread
                await asyncio.sleep(0.05)
            await wire.send(bytes(2_000_000))
        else:
            self.refused += 1
            await reply(503)(request, wire)


def test_an_archive_that_refuses_all_others_while_a_slow_product_comes_is_asked_few_times(stage: Stage, place: Place):
    archive = Overloaded()
    with stage.running(RawServer(archive)) as server:
        place.write({"url": server.url(f"/{name}"), "file": f"{name}.bin"} for name in ("slow", *map(str, range(60))))
        running = place.start("run", "m.yaml", "--json", "--progress", "plain", "-j", "4", env=PATIENT)
        running.until(lambda: "answers with server errors since" in running.err, "the outage")
        refused, archive.is_well = archive.refused, True
        done = running.done()
    assert (done.code, done.counts) == (0, {"completed": 61}), done.err
    assert refused <= 30


def test_an_archive_that_refuses_connections_is_waited_for(stage: Stage, place: Place):
    archive = Failing(reply(503), after=10**6)
    with stage.running(RawServer(archive)) as server:
        port = server.port
        place.write(urls(server))
        place.run("--select", "p0[0-3].bin")
    running = place.start("run", "m.yaml", "--json", "--progress", "plain", env=PATIENT)
    running.until(lambda: "refuses connections since" in running.err, "the outage")
    assert "given up at" in running.err
    running.until(lambda: json.loads(place("status", "m.yaml", "--json").out)["outages"], "the outage in the journal")
    (lasting,) = json.loads(place("status", "m.yaml", "--json").out)["outages"]
    assert (lasting["ended"], lasting["kind"]) == (None, "refused")
    with stage.running(RawServer(archive, port=port)) as server:
        done = running.done()
        origin = server.origin
    assert (done.code, done.counts) == (0, {"completed": PRODUCTS - 4, "skipped": 4}), done.err
    assert told(done.summary["outages"], origin)["kind"] == "refused"


ENDPOINT_FAULTS = {
    "502": EndpointFault(status=502, body=b"<html>Bad gateway"),
    "page": EndpointFault(status=200, body=b"<html>Maintenance", headers={"Content-Type": "text/html"}),
    "lost connection": EndpointFault(drop=True),
}


@pytest.mark.parametrize("name", effort(["502"], list(ENDPOINT_FAULTS)))
def test_a_token_endpoint_out_of_order_at_the_start_stops_no_account(name: str, site: Site, place: Place):
    items = [site.item("header-") for _ in range(3)]
    site.identity.script(ENDPOINT_FAULTS[name], times=3)
    place.write([site.entry(item, account="jo") for item in items], accounts={"jo": site.oidc()})
    done = place.run(env=PATIENT)
    assert (done.code, done.counts) == (0, {"completed": 3}), done.err
    outage = told(done.summary["outages"], site.archive.origin)
    assert outage["account"] == "jo"
    assert "the token endpoint" in done.err


def test_an_archive_that_stays_out_of_order_is_given_up_with_the_outage_as_the_reason(stage: Stage, place: Place):
    with stage.running(RawServer(reply(503))) as server:
        place.write(urls(server))
        done = place.run("-j", "2")
    assert (done.code, done.counts) == (1, {"failed": PRODUCTS})
    assert {failure["kind"] for failure in done.failures.values()} == {"http"}
    assert all("--give-up-after" in failure["reason"] for failure in done.failures.values())
    (outage,) = done.summary["outages"]
    assert outage["ended"] is None


def test_no_outage_is_an_empty_list(site: Site, place: Place):
    place.write([site.entry(site.item())])
    assert place.run().summary["outages"] == []
