"""`bulkdl.download` where an event loop is already running, as in a notebook: an interruption stops the run at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from bulkdl.demo_server.faults import Stall
from tests.contract.program import PATIENCE_S, SECRETS, Place, Site, eventually

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to one process"),
]

CELL = """
import asyncio, bulkdl
async def cell():
    bulkdl.download("m.yaml")
"""
NOTEBOOK = """
loop = asyncio.new_event_loop()
try:
    loop.run_until_complete(cell())
except KeyboardInterrupt:
    print("interrupted")
"""
SCRIPT = """
try:
    asyncio.run(cell())
except KeyboardInterrupt:
    print("interrupted")
"""
PLAIN = """
try:
    bulkdl.download("m.yaml")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("style", [NOTEBOOK, SCRIPT, PLAIN])
def test_an_interrupted_cell_ends_at_once_and_the_state_is_saved(site: Site, place: Place, style):
    item = site.item(size=3_000_000)
    site.archive.faults.add(Stall(2_000_000), item=item.name, times=None)
    place.write([site.entry(item)])
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "SSL_CERT_FILE") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, "-c", CELL + style],
        cwd=place.cwd,
        env={**kept, **SECRETS, "HOME": str(place.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    part = place.products / f"{item.name}.part"
    eventually(lambda: part.exists() and part.stat().st_size, what="bytes of the product")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert out.decode() == "interrupted\n", err.decode()
    found = json.loads(place("status", "m.yaml", "--json").out)["items"][0]
    assert found["state"] == "partial"
    assert found["have"] > 0
