"""The archive's own words about an error stand in every output, without secrets."""

from __future__ import annotations

import json

import pytest

from tests.contract.program import SECRETS, Place, Site
from tests.servers import reply

pytestmark = pytest.mark.long

JSON = ("Content-Type", "application/json")
EULA = json.dumps({"error": "EULA not accepted", "detail": "Accept the licence at https://x.org/eula"}).encode()
ECHO = json.dumps({"message": f"Authorization Bearer {SECRETS['FIXED_TOKEN']} has no access"}).encode()
PAGE = b"<html><title>Closed for inventory</title><body>x</body></html>"
CASES = {
    "eula.bin": (
        reply(403, EULA, JSON),
        "refused access (403): EULA not accepted: Accept the licence at https://x.org/eula",
    ),
    "quota.bin": (
        reply(500, b'{"message":"Quota exceeded for today"}', JSON),
        "answered 500: Quota exceeded for today",
    ),
    "cold.bin": (reply(404, b"moved to cold storage\n"), "answered 404: moved to cold storage"),
    "s3.bin": (
        reply(400, b"<Error><Code>Slow</Code><Message>no more</Message></Error>"),
        "answered 400: Slow: no more",
    ),
    "page.bin": (reply(404, PAGE, ("Content-Type", "text/html")), "answered 404: Closed for inventory"),
    "silent.bin": (reply(404), "answered 404. Check"),
}


def test_the_words_stand_beside_every_refusal_everywhere(site: Site, place: Place):
    for name, (responder, _) in CASES.items():
        site.routes[f"/{name}"] = responder
    place.write([{"url": site.raw.url(f"/{name}"), "file": name} for name in CASES])
    env = {"BULKDL_GIVE_UP_AFTER": "3s"}
    done = place.run("--retries", "2", "--report", "r.html", "--log-file", "log", env=env)
    assert done.code == 1
    outputs = [
        json.dumps([failure["reason"] for failure in done.failures.values()]),
        (place.cwd / "r.html").read_text(),
        (place.cwd / "log").read_text(),
        done.err,
        place("status", "m.yaml").out,
        place("run", "m.yaml", "--retries", "1", env=env).out,
    ]
    for _, words in CASES.values():
        assert [words in output for output in outputs] == [True] * len(outputs), words


def test_an_echoed_credential_is_masked_and_the_id_of_the_request_is_logged(site: Site, place: Place):
    site.routes["/echo.bin"] = reply(403, ECHO, JSON, ("X-Request-Id", "7f3a-1"))
    own = {"auth": "bearer", "token": "${FIXED_TOKEN}", "hosts": ["127.0.0.1"]}
    place.write([{"url": site.raw.url("/echo.bin"), "account": "own"}], accounts={"own": own})
    done = place.run("--log-file", "log")
    assert "Authorization *** has no access" in done.failures["echo.bin"]["reason"]
    assert "x-request-id=7f3a-1" in (place.cwd / "log").read_text()
