"""Unpack a single file compressed by gzip, bzip2 or xz, such as `a.nc.gz`, to the file beside it."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from bulkdl.content.errors import bad_content
from bulkdl.content.tar_files import read_single
from bulkdl.core.errors import ProductFailed
from bulkdl.core.models import FailureKind
from bulkdl.storage.filesystem import move_new, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bulkdl.core.thread_pool import Stop

__all__ = ["SINGLE_SUFFIX", "unpack_single"]

SINGLE_SUFFIX: Final = re.compile(r"\.(gz|bz2|xz|zst)$", re.IGNORECASE)


def unpack_single(
    archive: Path, target: Path, *, temporary: Path, most: int, stop: Stop, progress: Callable[[int], None]
) -> int:
    """Unpack `archive` to the file `target`, which exists only once it is complete; return its bytes.

    If `target` exists already with these very bytes, an earlier run unpacked it: return 0. Raise `ProductFailed`
    (conflict) if it has other bytes, `ProductFailed` (content) if the archive is broken or unpacks to more than `most`
    bytes. An `OSError` (ENOSPC) passes.
    """
    blocks = _limited(read_single(archive, stop=stop, progress=progress), most)
    if os.path.lexists(target):
        if not target.is_file() or not _has_content(target, blocks):
            raise _conflict(target)
        return 0
    try:
        with temporary.open("xb") as file:
            for block in blocks:
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            total = file.tell()
        move_new(str(temporary), str(target))
    except FileExistsError as exc:
        raise _conflict(target) from exc
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)
    return total


def _limited(blocks: Iterator[bytes], most: int) -> Iterator[bytes]:
    left = most
    for block in blocks:
        left -= len(block)
        if left < 0:
            raise bad_content(f"it unpacks to more than {most} bytes, which is too much for its size")
        yield block


def _has_content(path: Path, blocks: Iterator[bytes]) -> bool:
    with path.open("rb") as file:
        return all(file.read(len(block)) == block for block in blocks) and not file.read(1)


def _conflict(target: Path) -> ProductFailed:
    return ProductFailed(
        f"{target.name} exists already, with other content",
        kind=FailureKind.CONFLICT,
        hint="Move that file away and run again",
    )
