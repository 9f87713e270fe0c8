"""Helpers of the storage tests: read-only and mounted folders, and child processes that hold a lock."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["make_link", "names"]


CHILD = Path(__file__).with_name("storage_child.py")


@contextmanager
def child(mode: str, destination: Path) -> Iterator[subprocess.Popen[str]]:
    """Start `storage_child.py` and kill it at the end."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), mode, str(destination)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs at `folder`; skip the test if mounting is not permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:
        pytest.skip("there is no mount command here")
    if done.returncode != 0:
        pytest.skip("this user may not mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """Make a folder read-only: by permission, or for root, who ignores permissions, by a read-only mount."""
    if os.geteuid() == 0:
        with mounted(folder, "ro,size=64k") as place:
            yield place
        return
    folder.mkdir()
    folder.chmod(0o555)
    try:
        yield folder
    finally:
        folder.chmod(0o755)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def descriptors() -> set[str]:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("this system has no /proc")
    return set(os.listdir(folder))  # noqa: PTH208 - the listing itself is one


def make_link(path: Path) -> None:
    path.symlink_to(path.with_name("target"))
