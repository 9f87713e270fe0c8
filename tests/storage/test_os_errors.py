"""The scope of each `OSError`: one name, or this machine."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.models import FailureKind
from bulkdl.storage.os_errors import storage_error

if TYPE_CHECKING:
    from pathlib import Path

STOPS = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "no space left",
    errno.EROFS: "read-only",
    errno.EIO: "Input/output error",
    errno.EMFILE: "too many open files",
    errno.ENODEV: "No such device",
}


FAILS = {
    errno.ENAMETOOLONG: "too long",
    errno.EISDIR: "a folder with this name is in the way",
    errno.ENOTDIR: "a file is where a folder is needed",
    errno.EINVAL: "does not accept the name",
    errno.EILSEQ: "does not accept some characters",
    errno.EFBIG: "larger than",
    errno.ELOOP: "symbolic link",
    errno.EXDEV: "another file system",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENOENT: "it no longer exists",
}


@pytest.mark.parametrize(("code", "says"), STOPS.items(), ids=lambda value: errno.errorcode.get(value, ""))
def test_what_the_machine_lacks_stops_the_run(tmp_path: Path, code: int, says: str) -> None:
    ours = storage_error(OSError(code, os.strerror(code)), path=tmp_path / "a/b.part", what="write", root=tmp_path)
    assert isinstance(ours, StorageStopped)
    assert ours.full == (code in {errno.ENOSPC, errno.EDQUOT})
    assert ours.reason.startswith("Could not write 'a/b.part': ")
    assert says in ours.reason
    assert ours.hint


@pytest.mark.parametrize(("code", "says"), FAILS.items(), ids=lambda value: errno.errorcode.get(value, ""))
def test_what_concerns_one_name_fails_that_product_only(tmp_path: Path, code: int, says: str) -> None:
    ours = storage_error(OSError(code, os.strerror(code)), path=tmp_path / "a/b.part", what="write", root=tmp_path)
    assert isinstance(ours, ProductFailed)
    assert ours.kind is FailureKind.STORAGE
    assert ours.reason.startswith("Could not write 'a/b.part': ")
    assert says in ours.reason
    assert ours.hint


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.ENOENT], ids=errno.errorcode.get)
def test_a_destination_that_is_gone_or_refuses_stops_the_run(tmp_path: Path, code: int) -> None:
    gone = tmp_path / "unmounted"
    error = OSError(code, os.strerror(code))
    assert isinstance(storage_error(error, path=gone / "a.part", what="write", root=gone), StorageStopped)
    ours = storage_error(error, path=tmp_path, what="write to", root=tmp_path)
    assert isinstance(ours, StorageStopped)
    assert f"the destination folder '{tmp_path}'" in ours.reason
