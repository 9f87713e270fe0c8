"""The servers that the tests in this folder share, and the figures that they report.

If Java, Maven, nginx or PyJWT is missing, the tests are skipped with a message; with `BULKDL_REAL=require` they fail.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .keycloak import TOTP_SECRET, Keycloak
from .nginx import Nginx, executable
from .products import Remote, make, sizes
from .program import Program
from .scene import SECRETS, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_figures: list[str] = []


def _missing() -> list[str]:
    found = {
        "java": shutil.which("java"),
        "mvn": shutil.which("mvn"),
        "nginx": executable(),
        "PyJWT[crypto]": importlib.util.find_spec("jwt") and importlib.util.find_spec("cryptography"),
    }
    return [name for name, place in found.items() if not place]


def _refuse(reason: str) -> None:
    if os.environ.get("BULKDL_REAL") == "require":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """Return a folder for the servers and the archive's files: in memory if there is enough."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30
    with tempfile.TemporaryDirectory(dir=memory if roomy else None, prefix="bulkdl-real-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def keycloak(scratch: Path) -> Iterator[Keycloak]:
    if missing := _missing():
        _refuse(f"needs {', '.join(missing)}; .ci/run installs what is missing")
    with Keycloak(scratch) as server:
        yield server


@pytest.fixture(scope="session")
def nginx(scratch: Path, keycloak: Keycloak) -> Iterator[Nginx]:
    root = scratch / "archive"
    root.mkdir()
    issuers = {realm: keycloak.issuer(realm) for realm in keycloak.realms}
    with Nginx(scratch, root=root, issuers=issuers) as server:
        yield server


@pytest.fixture(scope="session")
def site(keycloak: Keycloak, nginx: Nginx, scratch: Path) -> Site:
    return Site(keycloak=keycloak, nginx=nginx, root=scratch / "archive")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Return bulkdl with one home folder for the whole session, like one user on one machine."""
    return Program(tmp_path_factory.mktemp("home"), SECRETS | {"OTTO_TOTP": TOTP_SECRET})


@pytest.fixture(scope="session")
def big(site: Site) -> list[Remote]:
    """320 products of 1 KB to 200 MB, about 1 GB in all, half of them in each realm."""
    one = make(site.root, "eo", [200_000_000, *sizes(159, largest=40_000_000)], seed=1)
    other = make(site.root, "eo-totp", [100_000_000, *sizes(159, largest=40_000_000, seed=8)], seed=2)
    return [remote for pair in zip(one, other, strict=True) for remote in pair]


@pytest.fixture(scope="session")
def small(site: Site) -> list[Remote]:
    """12 products of 1 KB to 2 MB that need no account."""
    return make(site.root, "open", sizes(12, largest=2_000_000), seed=3)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk for a manifest and its products; emptied afterwards, since the products are large."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a small file system, or remounts it with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    as_root = ["sudo", "-n"] if os.geteuid() and shutil.which("sudo") else []

    def mount(options: str) -> Path:
        again = "remount," if folder.is_mount() else ""
        command = [*as_root, "mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            _refuse(f"mounting a small file system is not permitted here: {done.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run([*as_root, "umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def figure() -> Callable[[str], None]:
    """Return a function that adds a measured figure to the end of the test report."""
    return _figures.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("figures")
        for line in _figures:
            terminalreporter.write_line(line)
