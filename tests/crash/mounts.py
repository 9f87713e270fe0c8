"""Temporary disks in a file or in memory, mounted for one test; tests skip if mounting is not permitted."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Disk", "disk", "exfat", "without_privileges"]

_PR_CAPBSET_DROP = 24
_CAPABILITIES = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER: capabilities(7)


def without_privileges() -> None:
    """Drop capabilities (for `preexec_fn`), so that permissions apply even if the tests run as root."""
    libc = ctypes.CDLL(None)
    for capability in _CAPABILITIES:
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _run(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class Disk:
    """An ext4 file system in a file, mounted at `place`."""

    def __init__(self, place: Path, image: Path) -> None:
        self.place = place
        self.image = image

    def mount(self) -> bool:
        return _run("mount", "-o", "loop", str(self.image), str(self.place))

    def unmount(self, *how: str) -> None:
        subprocess.run(["umount", *how, str(self.place)], check=True)

    def fail(self) -> None:
        """Turn the file system read-only, as after a disk error."""
        subprocess.run(["mount", "-o", "remount,abort", str(self.place)], check=True)


@contextmanager
def disk(place: Path, *, size: int, block: int = 4096) -> Iterator[Disk]:
    """Create and mount an ext4 disk; `size` and `block` are in bytes."""
    image = place.with_name(f"{place.name}.img")
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    made = Disk(place, image)
    if not _run("mkfs.ext4", "-q", "-b", str(block), str(image)) or not made.mount():
        pytest.skip("this user may not mount an ext4 image here")
    try:
        yield made
    finally:
        _run("umount", str(place))


@contextmanager
def exfat(place: Path, *, size: int) -> Iterator[Path]:
    """Mount a file system without case, hard links, `:` and `?`; `size` is in bytes."""
    if sys.platform != "linux" or shutil.which("mount.exfat-fuse") is None:
        pytest.skip("there is no exfat-fuse here")
    image = place.with_name(f"{place.name}.img")
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    if not _run("mkfs.exfat", str(image)):
        pytest.skip("there is no mkfs.exfat here")
    found = subprocess.run(["losetup", "-f", "--show", str(image)], capture_output=True, text=True, check=False)
    device = found.stdout.strip()
    if not device or not _run("mount.exfat-fuse", device, str(place)):
        pytest.skip("this user may not mount an exFAT image")
    try:
        yield place
    finally:
        _run("umount", str(place))
        _run("losetup", "-d", device)
