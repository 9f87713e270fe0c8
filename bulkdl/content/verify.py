"""Verify that a file on disk is the product.

Checks: size, first bytes, checksums, the archive's structure and, with `verify: deep`, its members. The checks read
whole files, so they run in a thread pool. A cancellation takes effect within one block of 1 MiB.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bulkdl.content.error_pages import HEAD_SIZE, html_or_json_error, objection
from bulkdl.content.errors import bad_content
from bulkdl.content.hashing import BLOCK, HASHING, hasher
from bulkdl.core.errors import ProductFailed
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import FailureKind, Verify
from bulkdl.core.thread_pool import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from bulkdl.content.hashing import Digests, Hasher
    from bulkdl.core.models import Checksum, Product

__all__ = ["check_body", "check_product", "digests", "import_archive_readers"]

_ZIP_SUFFIXES = (".zip", ".kmz")
_TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz")
_STRUCTURED = (*_ZIP_SUFFIXES, *_TAR_SUFFIXES, *_PACKED_SUFFIXES)
_AGAIN = "Run again to download it again. If it fails the same way, the manifest and the archive disagree"
_LOOK = "Open its URL in a browser to see what the server sends"


async def digests(
    path: Path, algorithms: Collection[str], *, progress: Callable[[int], None] | None = None
) -> dict[str, str]:
    """Read `path` once and return each algorithm's digest, lower-case hex.

    Algorithms: those of `models.Checksum` and of hashlib. `progress` is called on a worker thread with the bytes just
    read. Raise `ValueError` for an unknown algorithm. An `OSError` passes unchanged.
    """
    hashers = {algorithm: hasher(algorithm) for algorithm in algorithms}
    return await HASHING.run(lambda stop: _digests(path, hashers, stop, progress or _no_progress))


async def check_product(
    path: Path,
    product: Product,
    *,
    name: str,
    content_type: str = "",
    known: Digests | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Checksum, ...]:
    """Verify the file at `path` and return the checksums it was verified against. `name`: its final file name.

    `known`: digests computed during the download. If they belong to this very file, a checksum that they confirm needs
    no reading; if they do not match, the file is read. Raise `ProductFailed` (size, content or checksum) with the
    expected and found values. An `OSError` passes unchanged. `progress` is called on a worker thread with the bytes
    just read: the file's size once for checksums that are not known, and once more for `verify: deep`.
    """
    import_archive_readers(product, name)

    def check(stop: Stop) -> tuple[Checksum, ...]:
        return _Check(
            path=path,
            product=product,
            name=name,
            content_type=content_type,
            known=known,
            stop=stop,
            progress=progress or _no_progress,
        ).all()

    return await HASHING.run(check)


def check_body(
    body: bytes, product: Product, *, path: Path | str, name: str, content_type: str = ""
) -> tuple[Checksum, ...]:
    """Verify a file at `path` that was just written from `body`, on the calling thread (see `check_product`).

    The file itself is read only to check an archive's structure, or if `body` does not match.
    """
    _check_start(product, name=name, content_type=content_type, head=body[:HEAD_SIZE], size=len(body))
    matches = _matches(body, product.checksums)
    if not matches or name.lower().endswith(_STRUCTURED):
        check = _Check(
            path=Path(path),
            product=product,
            name=name,
            content_type=content_type,
            known=None,
            stop=Stop(),
            progress=_no_progress,
        )
        if not matches:
            check.sums({})
        if body:
            check.structure()
    return product.checksums


def _no_progress(_read: int) -> None:
    pass


def _digests(path: Path, hashers: dict[str, Hasher], stop: Stop, progress: Callable[[int], None]) -> dict[str, str]:
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(min(BLOCK, os.fstat(file.fileno()).st_size + 1))
        view = memoryview(buffer)
        while True:
            stop.check()
            count = file.readinto(buffer)
            if not count:
                return {algorithm: each.hexdigest() for algorithm, each in hashers.items()}
            for each in hashers.values():
                each.update(view[:count])
            progress(count)


def _check_start(product: Product, *, name: str, content_type: str, head: bytes, size: int) -> None:
    """Raise `ProductFailed` if the first bytes or the size cannot be the product's."""
    declared = product.size
    accept = next((v for key, v in product.headers if key.lower() == "accept"), None) if product.headers else None
    found = objection(
        name=name,
        head=head,
        content_type=content_type,
        size=size or declared,  # an empty file is right only if the manifest says so
        requested_accept=accept,
    )
    is_page = found is not None and html_or_json_error(head, content_type)
    if (
        declared is not None and declared != size and not is_page
    ):  # the text of an error page helps the user more than its size
        reason = f"{name} has {size} bytes, but {declared} were expected"
        raise ProductFailed(reason, kind=FailureKind.SIZE, hint=_AGAIN)
    if found is not None:
        raise bad_content(f"{name} is not the product: {found}", hint=_LOOK)


def _matches(body: bytes, checksums: Collection[Checksum]) -> bool:
    for checksum in checksums:
        each = hasher(checksum.algorithm)
        each.update(body)
        if each.hexdigest() != checksum.hex.lower():
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """The checks of one file; each method is one check. Runs on a worker thread."""

    path: Path
    product: Product
    name: str
    content_type: str
    known: Digests | None
    stop: Stop
    progress: Callable[[int], None]

    def all(self) -> tuple[Checksum, ...]:
        with self.path.open("rb", buffering=0) as file:
            facts = os.fstat(file.fileno())
            head = file.read(HEAD_SIZE)
        _check_start(self.product, name=self.name, content_type=self.content_type, head=head, size=facts.st_size)
        self.sums(self.known.of(facts) if self.known is not None else {})
        if facts.st_size:
            self.structure()
        return self.product.checksums

    def sums(self, known: Mapping[str, str]) -> None:
        expected = [c for c in self.product.checksums if known.get(c.algorithm) != c.hex.lower()]
        if not expected:
            return
        found = _digests(self.path, {c.algorithm: hasher(c.algorithm) for c in expected}, self.stop, self.progress)
        wrong = [c for c in expected if found[c.algorithm] != c.hex.lower()]
        if wrong:
            differences = "; ".join(f"expected {c}, found {c.algorithm}:{found[c.algorithm]}" for c in wrong)
            reason = f"{self.name} does not match its checksum: {differences}"
            raise ProductFailed(reason, kind=FailureKind.CHECKSUM, hint=_AGAIN)

    def structure(self) -> None:
        deep = self.product.verify is Verify.DEEP
        if not _is_checked_as_archive(self.name, deep=deep):
            return
        from bulkdl.content.archive_check import check_archive  # noqa: PLC0415 - see `import_archive_readers`

        try:
            check_archive(self.path, self.name, deep=deep, stop=self.stop, progress=self.progress)
        except ProductFailed as exc:
            raise ProductFailed(f"{self.name}: {exc.reason}", kind=exc.kind, hint=exc.hint or _AGAIN) from exc


def import_archive_readers(product: Product, name: str) -> None:
    """Import the archive readers if `check_body` will need them, because its thread must not import modules."""
    if _is_checked_as_archive(name, deep=product.verify is Verify.DEEP):
        import bulkdl.content.archive_check  # noqa: F401, PLC0415


def _is_checked_as_archive(name: str, *, deep: bool) -> bool:
    """Tell whether a file of that name is checked as an archive."""
    return name.lower().endswith((*_ZIP_SUFFIXES, *_TAR_SUFFIXES, *_PACKED_SUFFIXES) if deep else _ZIP_SUFFIXES)
