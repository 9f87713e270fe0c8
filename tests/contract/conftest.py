"""Fixtures of the contract tests: servers for each module, and a folder for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.program import Place, Site, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def site(stage: Stage) -> Iterator[Site]:
    """An archive, its token endpoint and a scriptable server, shared by all tests of a module."""
    with Site.open(stage) as site:
        yield site


@pytest.fixture
def place(tmp_path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()
    assert place.leaks() == []


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Folder for the one run that many tests of a module inspect."""
    place = Place(tmp_path_factory.mktemp("shared"))
    yield place
    place.close()
    assert place.leaks() == []
