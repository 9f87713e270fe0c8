"""The demo archive: its manifest and variables suffice to download every product."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pyotp
import pytest
import yaml
from blake3 import blake3

from bulkdl.demo_server.__main__ import main
from bulkdl.demo_server.demo import DemoArchive, demo_faults, demo_outages
from bulkdl.demo_server.demo_clock import DemoClock
from bulkdl.demo_server.faults import Cut, Fault, Refuse, Stall
from bulkdl.demo_server.outages import Part

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def _filled(value: str, environ: Mapping[str, str]) -> str:
    return environ[value.removeprefix("${").removesuffix("}")]


async def _token(client: aiohttp.ClientSession, account: dict[str, Any], environ: Mapping[str, str]) -> str:
    form = {
        "grant_type": "password",
        "client_id": account["client_id"],
        "username": _filled(account["username"], environ),
        "password": _filled(account["password"], environ),
    }
    if "totp_secret" in account:
        form["totp"] = pyotp.TOTP(_filled(account["totp_secret"], environ)).now()
    async with client.post(account["token_url"], data=form) as response:
        assert response.status == 200, await response.text()
        return str((await response.json())["access_token"])


async def _signed(
    client: aiohttp.ClientSession, account: dict[str, Any] | None, environ: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return headers and query parameters for the products of an account."""
    if account is None:
        return {}, {}
    if account["auth"] == "basic":
        user, password = _filled(account["username"], environ), _filled(account["password"], environ)
        return {"Authorization": aiohttp.encode_basic_auth(user, password, encoding="utf-8")}, {}
    token = await _token(client, account, environ)
    return ({}, {"token": token}) if account.get("token_in") == "query" else ({"Authorization": f"Bearer {token}"}, {})


async def test_every_product_can_be_downloaded_with_its_account_in_the_manifest() -> None:
    async with (
        DemoArchive(rate=None, token_lifetime=300, faulty=lambda _: []) as demo,
        aiohttp.ClientSession() as client,
    ):
        manifest = yaml.safe_load(demo.manifest_text)
        signed = {
            name: await _signed(client, manifest["accounts"].get(name), demo.environ) for name in _names(manifest)
        }
        assert len(manifest["products"]) == len(demo.catalogue) == 36
        for product in manifest["products"]:
            headers, params = signed[product.get("account")]
            url = product["url"]
            if "/catalogue/" in url:
                async with client.get(url, allow_redirects=False) as front:
                    url = front.headers["Location"]
            async with client.get(url, headers=headers, params=params) as response:
                assert response.status == 200
                body = await response.read()
            assert len(body) == product.get("size", len(body))
            assert product.get("checksum") in {None, *_checksums(body)}


def _names(manifest: dict[str, Any]) -> list[str | None]:
    return [None, *manifest["accounts"]]


def _checksums(body: bytes) -> set[str]:
    return {
        f"md5:{hashlib.md5(body).hexdigest()}",
        f"sha256:{hashlib.sha256(body).hexdigest()}",
        f"blake3:{blake3(body).hexdigest()}",
    }


async def test_only_open_products_are_served_without_a_credential() -> None:
    async with DemoArchive(rate=None, faulty=lambda _: []) as demo, aiohttp.ClientSession() as client:
        for product in yaml.safe_load(demo.manifest_text)["products"]:
            async with client.get(product["url"]) as response:
                assert response.status == (401 if product.get("account") else 200)


async def test_the_manifest_has_no_secret_and_the_variables_are_new_each_time() -> None:
    async with DemoArchive() as demo:
        text = demo.manifest_text
        assert [name for name, value in demo.environ.items() if value in text and not name.endswith("USERNAME")] == []
        assert all(f"${{{name}}}" in text for name in demo.environ)
        other = DemoArchive().environ
        assert demo.environ["DEMO_TOTP_SECRET"] != other["DEMO_TOTP_SECRET"]
        assert demo.environ["DEMO_PASSWORD"] != other["DEMO_PASSWORD"]


def test_the_faults_of_the_demo_hit_products_that_are_large_enough() -> None:
    catalogue = DemoArchive().catalogue
    faults = demo_faults(catalogue)
    assert sum(isinstance(f.effect, Cut) for f in faults) == 3
    assert {f.effect.status for f in faults if isinstance(f.effect, Refuse)} == {503, 429}
    for fault in faults:
        if isinstance(fault.effect, Cut | Stall):
            assert catalogue[fault.item].size > 2 * fault.effect.after


def test_the_demo_works_with_few_products() -> None:
    demo = DemoArchive(count=2)
    assert len(demo.catalogue) == 2
    assert len(demo_faults(demo.catalogue)) == 6


async def test_with_outages_the_two_accounts_with_tokens_have_a_token_endpoint_each() -> None:
    async with DemoArchive(outages=demo_outages(DemoClock())) as demo, aiohttp.ClientSession() as client:
        accounts = yaml.safe_load(demo.manifest_text)["accounts"]
        urls = [accounts[name]["token_url"] for name in ("creodias-like", "terrascope-like")]
        assert urls == demo.archive.token_urls
        assert len(set(urls)) == 2
        for name in ("creodias-like", "terrascope-like"):
            assert demo.identity.check(await _token(client, accounts[name], demo.environ))


async def test_without_outages_they_share_one() -> None:
    async with DemoArchive() as demo:
        accounts = yaml.safe_load(demo.manifest_text)["accounts"]
        assert accounts["creodias-like"]["token_url"] == accounts["terrascope-like"]["token_url"]
        assert accounts["creodias-like"]["client_id"] == accounts["terrascope-like"]["client_id"]


async def test_an_outage_begins_once_ten_products_were_sent_and_no_refusal_is_left() -> None:
    outages = demo_outages(DemoClock())
    refusal = [Fault(Refuse(503), item="EMPTY_FLAG.bin")]
    async with (
        DemoArchive(rate=None, token_lifetime=300, faulty=lambda _: refusal, outages=outages) as demo,
        aiohttp.ClientSession() as client,
    ):
        manifest = yaml.safe_load(demo.manifest_text)
        headers, _ = await _signed(client, manifest["accounts"]["terrascope-like"], demo.environ)
        urls = [p["url"] for p in manifest["products"] if p.get("account") in (None, "terrascope-like")]
        flag = next(url for url in urls if url.endswith("EMPTY_FLAG.bin"))

        async def get(url: str) -> int:
            async with client.get(url, headers=headers) as response:
                await response.read()
                return response.status

        others = [url for url in urls if url != flag]
        assert [await get(url) for url in others[:11]] == [200] * 11
        assert outages.held == []
        assert await get(flag) == 503
        assert outages.held == []
        assert await get(flag) == 503
        assert [held.planned.part for held in outages.held] == [Part.ARCHIVE]


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
async def test_the_module_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bulkdl.demo_server", "--folder", str(tmp_path / "demo"), "--count", "3",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = [(await process.stdout.readline()).decode() for _ in range(5)]
        assert "3 products" in lines[0]
        assert lines[1].strip().endswith("demo.yaml")
        assert "bulkdl run" in lines[4]
        manifest = yaml.safe_load((tmp_path / "demo" / "demo.yaml").read_text())
        assert len(manifest["products"]) == 3
        variables = tmp_path / "demo" / "demo.env"
        if os.name == "posix":
            assert stat.S_IMODE(variables.stat().st_mode) == 0o600
        async with aiohttp.ClientSession() as client, client.get(manifest["products"][0]["url"]) as response:
            assert response.status == 401
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


def test_a_port_in_use_is_reported_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--folder", str(tmp_path), "--port", str(taken.getsockname()[1])]) == 4
    assert "cannot start" in capsys.readouterr().err
