"""Check an archive: its structure and, with `verify: deep`, every member. Runs on a worker thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.content import tar_files, zip_files
from bulkdl.content.archive_errors import unreadable
from bulkdl.content.errors import bad_content
from bulkdl.content.hashing import hasher
from bulkdl.content.safe_manifest import MAX_MANIFEST_BYTES, is_safe_manifest, parse_safe
from bulkdl.core.errors import ProductFailed
from bulkdl.core.models import FailureKind

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable
    from pathlib import Path

    from bulkdl.core.thread_pool import Stop

__all__ = ["check_archive"]

_ZIPS = (".zip", ".kmz")
_TARS = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")


def check_archive(path: Path, name: str, *, deep: bool, stop: Stop, progress: Callable[[int], None]) -> None:
    """Check the archive at `path`; the suffix of `name` says which format it is.

    `deep`: read all of it; `progress` is then called with the number of bytes just read.
    Raise `ProductFailed` if the archive is broken. An `OSError` passes unchanged.
    """
    lower = name.lower()
    if lower.endswith(_ZIPS):
        zip_files.check_structure(path)
        if deep:
            _check_members(path, stop, progress)
    elif lower.endswith(_TARS):
        with tar_files.open_tar(path, stop=stop, progress=progress) as archive:
            for _member in archive.members():
                pass
    else:
        tar_files.read_through(path, stop=stop, progress=progress)


def _check_members(path: Path, stop: Stop, progress: Callable[[int], None]) -> None:
    """Verify each member's CRC and, for a SAFE product, the checksums of its manifest, in one pass."""
    with zip_files.open_zip(path) as archive:
        expected = _safe_sums(archive, stop)
        for member in archive.infolist():
            sums = expected.pop(member.filename, [])
            hashers = [hasher(algorithm) for algorithm, _ in sums]
            for block in zip_files.read_member(archive, member, stop=stop, progress=progress):
                for each in hashers:
                    each.update(block)
            for each, (algorithm, digest) in zip(hashers, sums, strict=True):
                if each.hexdigest() != digest:
                    reason = (
                        f"member {member.filename!r} does not match the product's SAFE manifest: "
                        f"expected {algorithm}:{digest}, found {algorithm}:{each.hexdigest()}"
                    )
                    raise ProductFailed(reason, kind=FailureKind.CHECKSUM)
        if expected:
            missing = ", ".join(repr(path) for path in list(expected)[:3])
            raise bad_content(
                f"the product's SAFE manifest lists {len(expected)} file(s) that are not in the archive: {missing}"
            )


def _safe_sums(archive: zipfile.ZipFile, stop: Stop) -> dict[str, list[tuple[str, str]]]:
    """Return member name -> (algorithm, digest) from the SAFE manifests in the archive."""
    sums: dict[str, list[tuple[str, str]]] = {}
    names = frozenset(archive.namelist())
    for member in archive.infolist():
        if not is_safe_manifest(member.filename):
            continue
        what = f"the SAFE manifest {member.filename!r}"
        if member.file_size > MAX_MANIFEST_BYTES:
            raise bad_content(f"{what} has {member.file_size} bytes, too large for a manifest")
        data = b"".join(zip_files.read_member(archive, member, stop=stop, progress=lambda _: None))
        with unreadable(what):
            listed = parse_safe(data, manifest=member.filename, members=names)
        for file in listed:
            sums.setdefault(file.path, []).append((file.algorithm, file.hex))
    return sums
