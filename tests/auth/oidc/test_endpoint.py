"""Failures on the way to the token endpoint, and their messages."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import aiohttp
import pytest

from bulkdl.auth.oidc.endpoint import HttpTokenEndpoint
from bulkdl.auth.oidc.messages import EndpointFailed
from bulkdl.core.clock import SystemClock
from bulkdl.core.secret import Secret
from bulkdl.core.urls import Url
from tests.servers import hang, redirect, reply, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


async def post(session, url, form="password=x", *, seconds=5.0):
    return await HttpTokenEndpoint(session, clock=SystemClock(), timeout=seconds).post(Url(url), Secret(form))


async def test_a_form_is_posted_and_the_response_returned(session, raw_server):
    server = await raw_server(reply(200, b"{}"))
    answer = await post(session, server.url("/token"), "a=%C3%84+b")
    assert (answer.status, answer.body) == (200, b"{}")
    (request,) = server.log
    assert (request.method, request.target) == ("POST", "/token")
    assert request.header("Content-Type") == "application/x-www-form-urlencoded"
    assert request.header("Accept") == "application/json"


async def test_a_redirect_is_not_followed(session, raw_server):
    server = await raw_server(redirect("/elsewhere"))
    answer = await post(session, server.url("/token"))
    assert answer.status == 302
    assert answer.header("location") == "/elsewhere"
    assert len(server.log) == 1


async def failure(session, url, *, seconds=5.0) -> EndpointFailed:
    with pytest.raises(EndpointFailed) as failed:
        await post(session, url, "password=hunter2", seconds=seconds)
    assert "hunter2" not in str(failed.value)
    assert failed.value.__cause__ is None
    return failed.value


async def test_a_refused_connection_is_named_with_host_and_port(session):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    failed = await failure(session, f"http://127.0.0.1:{port}/token?secret=1")
    assert f"no connection to the token endpoint 127.0.0.1:{port}" in failed.reason
    assert "secret" not in failed.reason
    assert not failed.lasting


async def test_a_name_that_does_not_exist_is_named(session):
    assert "could not be resolved" in (await failure(session, "http://nowhere.invalid/token")).reason


async def test_no_response_is_a_timeout(session, raw_server):
    server = await raw_server(hang())
    assert "did not answer in 0.05 s" in (await failure(session, server.url("/token"), seconds=0.05)).reason


async def test_a_lost_connection_is_named(session, raw_server):
    server = await raw_server(reset(100, b"half"))
    assert "lost" in (await failure(session, server.url("/token"))).reason


async def test_an_endless_answer_is_cut_off(session, raw_server):
    server = await raw_server(reply(200, b"x" * (1 << 20) + b"x"))
    assert "more than 1 MiB" in (await failure(session, server.url("/token"))).reason


def certificate(folder: Path) -> ssl.SSLContext:
    key, cert = folder / "key.pem", folder / "cert.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*request, *names, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=20)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_an_untrusted_certificate_is_a_lasting_failure_with_its_cause(session, tmp_path):
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=certificate(tmp_path))
    try:
        port = server.sockets[0].getsockname()[1]
        failed = await failure(session, f"https://127.0.0.1:{port}/token")
    finally:
        server.close()
    assert failed.lasting
    assert "self-signed certificate" in failed.reason
    assert "--ca-file" in failed.hint


async def test_a_malformed_chunked_answer_is_a_lost_connection(session, raw_server):
    async def respond(_request, wire):
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nno chunk\r\n")

    server = await raw_server(respond)
    with pytest.raises(EndpointFailed, match="was lost before the response was complete"):
        await post(session, server.url("/token"))
