"""The clients of a run."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from bulkdl.operations.state_folder import state_folder
from tests.harness import Place
from tests.servers import RawRequest, RawServer, Wire, head

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = b'{"access_token": "t", "expires_in": 3600, "token_type": "Bearer"}'


async def test_logins_and_products_of_one_host_share_no_connection(tmp_path: Path):
    async def respond(request: RawRequest, wire: Wire) -> None:
        body = TOKEN if request.method == "POST" else b"product"
        await wire.send(head(200, ("Content-Length", len(body)), ("Content-Type", "application/json")) + body)
        wire.keep()

    place = Place(tmp_path)
    place.environ["PASSWORD"] = "secret"
    async with RawServer(respond) as server:
        account = {
            "auth": "oidc",
            "token_url": server.url("/token"),
            "client_id": "public",
            "username": "jo",
            "password": "${PASSWORD}",
        }
        done = await place.run({"url": server.url("/a"), "file": "a.bin", "account": "own"}, accounts={"own": account})
        assert done.code == 0, done.result.failures
        logins = {request.connection for request in server.log if request.method == "POST"}
        products = {request.connection for request in server.log if request.method == "GET"}
    assert logins
    assert products
    assert not logins & products


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX user ids")
def test_without_a_home_folder_the_state_lies_in_a_private_temporary_folder(tmp_path, monkeypatch):
    def no_home(*_: object, **__: object) -> str:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("platformdirs.user_state_dir", no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = state_folder({})
    assert folder == state_folder({}) == tmp_path / f"bulkdl-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)  # somebody else may have written there
    assert state_folder({}) != folder
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert state_folder({}) != folder
