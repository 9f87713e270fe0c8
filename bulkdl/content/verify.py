"""Whether a file on disk is the product: size, first bytes, checksums, the archive's structure and, deep, its members.

All of it reads whole files, so it runs on threads of its own; a cancellation ends it within a block of 1 MiB.
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

__all__ = ["check_body", "check_product", "digests", "ready_for"]

_ZIP_SUFFIXES = (".zip", ".kmz")
_TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz")
_STRUCTURED = (*_ZIP_SUFFIXES, *_TAR_SUFFIXES, *_PACKED_SUFFIXES)
_AGAIN = "Run again to fetch it anew; should it end the same, the archive and the manifest do not agree"
_LOOK = "Open its URL in a browser to see what is served there"


async def digests(
    path: Path, algorithms: Collection[str], *, progress: Callable[[int], None] | None = None
) -> dict[str, str]:
    """Read `path` once and return each algorithm's digest, lower-case hex.

    Algorithms are those of `model.Checksum` and whatever hashlib has. `progress` is called on a worker thread with the
    bytes just read. Raise `ValueError` for an unknown algorithm, `OSError` as it comes.
    """
    hashers = {algorithm: hasher(algorithm) for algorithm in algorithms}
    return await HASHING.run(lambda stop: _digests(path, hashers, stop, progress or _silent))


async def check_product(
    path: Path,
    product: Product,
    *,
    name: str,
    content_type: str = "",
    known: Digests | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Checksum, ...]:
    """Return the checksums that `path` was verified against; `name` is the file name it is going to have.

    `known` spares the reading for checksums that it confirms, if it is of this very file; nothing is refused for what
    it says. Raise `ProductFailed` (size, content or checksum) with what was expected and found; `OSError` as it comes.
    `progress` is called on a worker thread with the bytes just read: the file's size once for the checksums that are
    not known, and once more for `verify: deep`.
    """
    ready_for(product, name)

    def check(stop: Stop) -> tuple[Checksum, ...]:
        return _Check(
            path=path,
            product=product,
            name=name,
            content_type=content_type,
            known=known,
            stop=stop,
            progress=progress or _silent,
        ).all()

    return await HASHING.run(check)


def check_body(
    body: bytes, product: Product, *, path: Path | str, name: str, content_type: str = ""
) -> tuple[Checksum, ...]:
    """Like `check_product`, on the caller's own thread, for a file at `path` that was written from `body` just now.

    The file is looked at only for its structure, or where `body` does not match.
    """
    _start(product, name=name, content_type=content_type, head=body[:HEAD_SIZE], size=len(body))
    matches = _matches(body, product.checksums)
    if not matches or name.lower().endswith(_STRUCTURED):
        check = _Check(
            path=Path(path),
            product=product,
            name=name,
            content_type=content_type,
            known=None,
            stop=Stop(),
            progress=_silent,
        )
        if not matches:
            check.sums({})
        if body:
            check.structure()
    return product.checksums


def _silent(_read: int) -> None:
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


def _start(product: Product, *, name: str, content_type: str, head: bytes, size: int) -> None:
    """Whether the product can begin so and have that many bytes."""
    declared = product.size
    accept = next((v for key, v in product.headers if key.lower() == "accept"), None) if product.headers else None
    found = objection(
        name=name,
        head=head,
        content_type=content_type,
        size=size or declared,  # an empty file is right only where the manifest says so
        requested_accept=accept,
    )
    is_page = found is not None and html_or_json_error(head, content_type)
    if declared is not None and declared != size and not is_page:  # what a page says helps more than its size
        reason = f"{name} has {size} bytes where {declared} were expected"
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
    """One file in the hands of a worker thread; each method is one question."""

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
        _start(self.product, name=self.name, content_type=self.content_type, head=head, size=facts.st_size)
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
            said = "; ".join(f"expected {c}, found {c.algorithm}:{found[c.algorithm]}" for c in wrong)
            reason = f"{self.name} does not match its checksum: {said}"
            raise ProductFailed(reason, kind=FailureKind.CHECKSUM, hint=_AGAIN)

    def structure(self) -> None:
        deep = self.product.verify is Verify.DEEP
        if not _is_read(self.name, deep=deep):
            return
        from bulkdl.content.archive_check import check_archive  # noqa: PLC0415 - see `ready_for`

        try:
            check_archive(self.path, self.name, deep=deep, stop=self.stop, progress=self.progress)
        except ProductFailed as exc:
            raise ProductFailed(f"{self.name}: {exc.reason}", kind=exc.kind, hint=exc.hint or _AGAIN) from exc


def ready_for(product: Product, name: str) -> None:
    """Import what reads archives if `check_body` will need that: its thread shall import nothing."""
    if _is_read(name, deep=product.verify is Verify.DEEP):
        import bulkdl.content.archive_check  # noqa: F401, PLC0415


def _is_read(name: str, *, deep: bool) -> bool:
    """Whether the bytes of a file of that name are to be read as an archive."""
    return name.lower().endswith((*_ZIP_SUFFIXES, *_TAR_SUFFIXES, *_PACKED_SUFFIXES) if deep else _ZIP_SUFFIXES)
