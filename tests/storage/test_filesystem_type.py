"""Limits of file systems."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from bulkdl.storage.filesystem_type import largest_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("filesystem", "largest"), [("vfat", (1 << 32) - 1), ("msdos", (1 << 32) - 1), ("exfat", None), ("ext4", None)]
)
def test_fat_is_known_to_end_at_4_gib(tmp_path: Path, filesystem: str, largest: int | None) -> None:
    mountinfo = f"1 2 8:1 / {os.path.realpath(tmp_path)} rw - {filesystem} /dev/sdb1 rw\n"
    own = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    limits = [limit for limit in (largest, None if own == resource.RLIM_INFINITY else own) if limit is not None]
    assert largest_file(tmp_path, mountinfo) == min(limits, default=None)
