"""Messages about a bot check, a link that has expired, a client certificate, and http on a port for https."""

from __future__ import annotations

import pytest

from tests.servers import reply

AMZ = "X-Amz-Date=20200101T000000Z&X-Amz-Expires=60&X-Amz-Signature=canary-signature"
EXPIRED = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
CASES = {
    "waf.bin": (reply(202, b"", ("x-amzn-waf-action", "challenge")), "", "a bot check"),
    "captcha.bin": (reply(405, b"<html>", ("X-Amzn-Waf-Action", "captcha")), "", "a bot check"),
    "cf.bin": (reply(503, b"<html>", ("Cf-Mitigated", "challenge"), ("Retry-After", "60")), "", "a bot check"),
    "link.bin": (reply(403, EXPIRED), AMZ, "the link has expired"),
    "cert.bin": (reply(400, b"<title>400 No required SSL certificate was sent</title>"), "", "a client certificate"),
    "tls.bin": (reply(400, b"The plain HTTP request was sent to HTTPS port"), "", "this port speaks https"),
}


@pytest.mark.parametrize("command", ["run", "check --remote"])
def test_each_is_named_after_a_second_look(site, place, command):
    products = []
    for name, (responder, query, _) in CASES.items():
        site.routes[f"/{name}"] = responder
        products.append({"url": site.raw.url(f"/{name}?{query}"), "file": name})
    manifest = place.write(products)
    name, *flags = command.split()
    done = place(name, manifest, *flags, env={"BULKDL_GIVE_UP_AFTER": "1m"})
    shown = done.out + done.err
    assert done.code == 1
    assert [words for _, _, words in CASES.values() if words not in shown] == []
    assert "Name an account" not in shown
    assert "canary-signature" not in shown
    if name == "run":
        assert {len(site.routes.of(f"/{each}")) for each in CASES} == {2}
