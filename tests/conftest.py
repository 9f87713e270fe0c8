"""Fixtures for all tests."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from bulkdl.demo_server.catalog import Item
from bulkdl.demo_server.generated_files import Kind
from bulkdl.demo_server.server import Archive
from tests.canary import Canary
from tests.clocks import ImpatientClock, ManualClock
from tests.effort import effort
from tests.servers import RawServer, Responder
from tests.tls import make_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

# Bytecode is kept, also for the programs that tests start: compiling the code costs more than most tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

CONTRACT = Path(__file__).with_name("contract")
"""Tests of the program as a process: forked where its modules are loaded already, and started anew in the long form."""
NO_AUTHORITY = Path(__file__).with_name("no_authority.pem")
"""One certificate, which has signed nothing, in the place of the system's hundreds: reading those is most of what a small
run costs. A test that is about the system's own asks for `system_certificates`."""
os.environ["SSL_CERT_FILE"] = str(NO_AUTHORITY)

settings.register_profile(
    "bulkdl",
    deadline=None,
    max_examples=effort(20, 100),
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("bulkdl")


def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: two more than there are processors, since tests wait for sockets and programs half of their time."""
    return (os.cpu_count() or 1) + 2


def _worker(config: pytest.Config) -> tuple[int, int]:
    """Number of this process among the workers of pytest-xdist, and how many there are."""
    told = getattr(config, "workerinput", None)
    return (int(told["workerid"].removeprefix("gw")), int(told["workercount"])) if told else (0, 1)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Each worker begins to collect at another module, and finds compiled what another worker has collected before it."""
    report = yield
    number, count = _worker(collector.config)
    if isinstance(collector, pytest.Directory) and number and report.passed:
        at = len(report.result) * number // count
        report.result = [*report.result[at:], *report.result[:at]]
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Mark tests with examples, and some in processes of their own, as `thorough`; each worker begins with modules marked `long`."""
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)) or item.path == CONTRACT / "test_files.py":
            item.add_marker("thorough")
    items.sort(key=lambda item: str(item.path))
    yield
    _, workers = _worker(config)
    if workers > 1:
        items[:] = _shares(items, workers)


def _shares(items: Sequence[pytest.Item], workers: int) -> Iterator[pytest.Item]:
    """`--dist=worksteal` gives each worker an equal share of the row: put long modules at the beginning of each share."""
    long = [item for item in items if item.get_closest_marker("long")]
    rest = iter([item for item in items if not item.get_closest_marker("long")])
    dealt: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for _, module in groupby(long, key=lambda item: item.path):
        min(dealt, key=len).extend(module)
    size = -(-len(items) // workers)
    for share in dealt:
        yield from share
        yield from islice(rest, max(0, size - len(share)))
    yield from rest


SMALL_CATALOGUE = (
    Item(name="empty.bin", size=0),
    Item(name="tiny.json", size=200, kind=Kind.JSON),
    Item(name="product.zip", size=300_000, kind=Kind.ZIP),
    Item(name="scene.tif", size=150_000, kind=Kind.TIFF),
    Item(name="large.bin", size=3_000_000),
)


@pytest.fixture
async def archive() -> AsyncIterator[Archive]:
    """An open archive with five small products: `empty.bin`, `tiny.json`, `product.zip`, `scene.tif`, `large.bin`."""
    async with Archive(SMALL_CATALOGUE) as running:
        yield running


@pytest.fixture
async def raw_server() -> AsyncIterator[Callable[..., Awaitable[RawServer]]]:
    """`await raw_server(responder, ...)`: a running `RawServer` that ends with the test."""
    async with AsyncExitStack() as stack:

        async def start(*responders: Responder) -> RawServer:
            return await stack.enter_async_context(RawServer(*responders))

        yield start


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate for 127.0.0.1 with its key; skips the test if `openssl` is missing."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def system_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system trusts is read, as it is without these tests."""
    monkeypatch.delenv("SSL_CERT_FILE")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def impatient_clock() -> ImpatientClock:
    return ImpatientClock()


@pytest.fixture
def canary() -> Canary:
    """A secret that is easy to find wherever it leaks: `canary.value`, then `canary.assert_absent(...)`."""
    return Canary()
