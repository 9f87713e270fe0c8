"""Fixtures for all tests."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from bulkdl.demo_server.catalog import Item
from bulkdl.demo_server.generated_files import Kind
from bulkdl.demo_server.server import Archive
from tests.canary import Canary
from tests.clocks import ImpatientClock, ManualClock
from tests.servers import RawServer, Responder
from tests.tls import make_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

settings.register_profile(
    "bulkdl",
    deadline=None,
    max_examples=60,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("bulkdl")


def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are processors for `-n auto`: tests spend half their time waiting."""
    return (os.cpu_count() or 1) + 1


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
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def impatient_clock() -> ImpatientClock:
    return ImpatientClock()


@pytest.fixture
def canary() -> Canary:
    """A secret that is easy to find wherever it leaks: `canary.value`, then `canary.assert_absent(...)`."""
    return Canary()
