"""Verify that a file on disk is the product.

Checks: size, checksums, first bytes, the archive's structure and, with `verify: deep`, its members. The checks read
whole files, so they run in a thread pool. A cancellation takes effect within one block of 1 MiB.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bulkdl.content.crc import CRCS, computable
from bulkdl.content.error_pages import HEAD_SIZE, html_or_json_error, objection
from bulkdl.content.errors import bad_content
from bulkdl.content.hashing import BLOCK, HASHING, hasher
from bulkdl.content.signatures import is_data_file
from bulkdl.core.errors import ProductFailed
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Checksum, FailureKind, Verify
from bulkdl.core.thread_pool import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from bulkdl.content.hashing import Digests, Hasher
    from bulkdl.core.models import Product

    _Read = Callable[[Collection[str]], Mapping[str, str]]
    """From algorithms to the digests of the whole file."""

__all__ = [
    "NO_SERVER_DIGEST",
    "ServerDigest",
    "Verified",
    "algorithms_for",
    "check_body",
    "check_product",
    "digests",
    "import_archive_readers",
    "matches",
]

_ZIP_SUFFIXES = (".zip", ".kmz")
_TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz")
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz")
_AGAIN = "Run again to download it again. If it fails the same way, the manifest and the archive disagree"
_DAMAGED = "Run again to download it again. If it fails the same way, report it to the archive, or name the checksum in the manifest"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A file that is the product."""

    digests: tuple[Checksum, ...] = ()
    """Digests to record: those of the manifest, else those that were computed."""
    notes: tuple[str, ...] = ()
    """Sentences about what looked wrong although a checksum of the manifest matches."""


@dataclass(frozen=True, slots=True)
class ServerDigest:
    """Digest that the server sent with the bytes; `NO_SERVER_DIGEST` if it sent none."""

    checksums: tuple[Checksum, ...] = ()
    field: str = ""
    """Field of the response that brought it; empty if an earlier run saw it."""
    etag: str | None = None
    """Entity tag of the version that it belongs to."""


NO_SERVER_DIGEST = ServerDigest()


def algorithms_for(product: Product, server: ServerDigest) -> tuple[str, ...]:
    """Return the digests to compute while the product arrives. There is always one, for `bulkdl verify` to compare."""
    sent = tuple(
        c.algorithm for c in server.checksums if not product.checksums and computable(c.algorithm, sys.maxsize)
    )
    return (*sent, *(algorithm for algorithm in _recorded(product, server) if algorithm not in sent))


async def check_product(
    path: Path,
    product: Product,
    *,
    name: str,
    content_type: str = "",
    known: Digests | None = None,
    server: ServerDigest = NO_SERVER_DIGEST,
    record: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Verified:
    """Verify the file at `path`. `name`: its final file name.

    A checksum of the manifest outranks every suspicion: if it matches, what looks wrong becomes a note; if it does not,
    what looks wrong is the reason. Without one, the digest that the `server` sent must match. `record`: compute a digest
    for the journal if nothing else needs one.

    `known`: digests computed during the download. If they belong to this very file, a checksum that they confirm needs
    no reading; if they do not match, the file is read. Raise `ProductFailed` (size, content or checksum) with the
    expected and found values. An `OSError` passes unchanged. `progress` is called on a worker thread with the bytes
    just read: the file's size once for checksums that are not known, and once more for `verify: deep`.
    """
    import_archive_readers(product, name)

    def check(stop: Stop) -> Verified:
        return _Check(
            path=path,
            product=product,
            name=name,
            content_type=content_type,
            server=server,
            record=_recorded(product, server, always=record),
            stop=stop,
            progress=progress or _no_progress,
        ).file(known)

    return await HASHING.run(check)


def check_body(
    body: bytes,
    product: Product,
    *,
    path: Path | str,
    name: str,
    content_type: str = "",
    server: ServerDigest = NO_SERVER_DIGEST,
) -> Verified:
    """Verify a file at `path` that was just written from `body`, on the calling thread (see `check_product`).

    The file itself is read only to check an archive's structure.
    """
    return _Check(
        path=path,
        product=product,
        name=name,
        content_type=content_type,
        server=server,
        record=_recorded(product, server),
        stop=_NO_STOP,
        progress=_no_progress,
    ).body(body)


def matches(body: bytes, checksums: Collection[Checksum]) -> bool:
    """Tell whether `body` has all of the checksums."""
    found = _digests_of(body, {c.algorithm for c in checksums})
    return all(found[c.algorithm] == c.hex.lower() for c in checksums)


def _recorded(product: Product, server: ServerDigest, *, always: bool = True) -> tuple[str, ...]:
    """Return the algorithms of the digests to record. A CRC finds damage, but another file may have it."""
    if not product.checksums and not server.checksums:
        return _OWN if always else ()
    hashes = tuple(c.algorithm for c in product.checksums or server.checksums if c.algorithm not in CRCS)
    return tuple(dict.fromkeys(hashes)) or (_OWN if always else ())


_OWN = ("blake3",)
"""Algorithm of a digest that nobody but `bulkdl verify` needs."""
_NO_STOP = Stop()


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


def _digests_of(body: bytes, algorithms: Collection[str]) -> dict[str, str]:
    found = {}
    for algorithm in algorithms:
        each = hasher(algorithm)
        each.update(body)
        found[algorithm] = each.hexdigest()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Check:
    """The checks of one file; each method is one check. Runs on a worker thread."""

    path: Path | str
    product: Product
    name: str
    content_type: str
    server: ServerDigest
    record: tuple[str, ...]
    stop: Stop
    progress: Callable[[int], None]

    def file(self, known: Digests | None) -> Verified:
        path = Path(self.path)
        with path.open("rb", buffering=0) as file:
            facts = os.fstat(file.fileno())
            head = file.read(HEAD_SIZE)

        def read(algorithms: Collection[str]) -> Mapping[str, str]:
            return _digests(path, {a: hasher(a) for a in algorithms}, self.stop, self.progress)

        return self._all(head, facts.st_size, {} if known is None else known.of(facts), read)

    def body(self, body: bytes) -> Verified:
        return self._all(body[:HEAD_SIZE], len(body), {}, lambda algorithms: _digests_of(body, algorithms))

    def _all(self, head: bytes, size: int, known: Mapping[str, str], read: _Read) -> Verified:
        suspicion = self._suspicion(head, size)
        if not self.product.checksums:
            if suspicion is not None:
                raise self._not_the_product(suspicion)
            found = self._sums(self._sent(size), known, read)
            if size and not self._has_another_type(head):
                self._structure()
            return Verified(digests=tuple(Checksum(a, found[a]) for a in self.record))
        try:
            self._sums(self.product.checksums, known, read)
        except ProductFailed as wrong:
            raise (wrong if suspicion is None else self._not_the_product(suspicion)) from None
        return Verified(digests=self.product.checksums, notes=self._notes(suspicion, size))

    def _has_another_type(self, head: bytes) -> bool:
        """Tell whether the name of a ZIP archive is only a guess, and the bytes are of another type."""
        guess = self.product.file is None and self.name.lower().endswith(_ZIP_SUFFIXES)
        return guess and is_data_file(head) and not head.startswith(b"PK")

    def _sent(self, size: int) -> tuple[Checksum, ...]:
        return tuple(c for c in self.server.checksums if computable(c.algorithm, size))

    def _not_the_product(self, suspicion: str) -> ProductFailed:
        return bad_content(f"{self.name} is not the product: {suspicion}", hint=_LOOK)

    def _notes(self, suspicion: str | None, size: int) -> tuple[str, ...]:
        """Return what looks wrong with a file that has the manifest's checksums."""
        found = [] if suspicion is None else [f"{self.name} looks wrong: {suspicion}"]
        wanted = {c.algorithm: c.hex.lower() for c in self.product.checksums}
        if any(wanted.get(c.algorithm, c.hex) != c.hex for c in self.server.checksums):
            found.append(f"{self.name} does not match the {self.server.field or 'digest'} that the server sent")
        if suspicion is None and size:
            try:
                self._structure()
            except ProductFailed as broken:
                found.append(broken.reason)
        return tuple(found)

    def _suspicion(self, head: bytes, size: int) -> str | None:
        """Return why the first bytes cannot be the product's; raise `ProductFailed` if the size cannot be."""
        product = self.product
        declared = product.size
        accept = next((v for key, v in product.headers if key.lower() == "accept"), None) if product.headers else None
        found = objection(
            name=self.name,
            head=head,
            content_type=self.content_type,
            size=size or declared,  # an empty file is right only if the manifest says so
            requested_accept=accept,
            name_is_guess=product.file is None,
        )
        if declared is None or declared == size:
            return found
        # The text of an error page helps the user more than its size.
        if found is not None and html_or_json_error(head, self.content_type):
            raise self._not_the_product(found)
        reason = f"{self.name} has {size} bytes, but {declared} were expected"
        raise ProductFailed(reason, kind=FailureKind.SIZE, hint=_AGAIN)

    def _sums(self, expected: tuple[Checksum, ...], known: Mapping[str, str], read: _Read) -> Mapping[str, str]:
        """Return the digests to record, after all `expected` ones have been found right."""
        if not expected and not known:
            return read(self.record) if self.record else {}
        right = {c.algorithm for c in expected if known.get(c.algorithm) == c.hex.lower()}
        missing = {c.algorithm for c in expected} - right | set(self.record) - set(known)
        found = {**known, **(read(missing) if missing else {})}
        wrong = [c for c in expected if found[c.algorithm] != c.hex.lower()]
        if not wrong:
            return found
        differences = "; ".join(f"expected {c}, found {c.algorithm}:{found[c.algorithm]}" for c in wrong)
        if self.product.checksums:
            what, hint = "its checksum", _AGAIN
        else:
            what, hint = f"the {self.server.field or 'digest'} that the server sent", _DAMAGED
        raise ProductFailed(f"{self.name} does not match {what}: {differences}", kind=FailureKind.CHECKSUM, hint=hint)

    def _structure(self) -> None:
        deep = self.product.verify is Verify.DEEP
        if not _is_checked_as_archive(self.name, deep=deep):
            return
        from bulkdl.content.archive_check import check_archive  # noqa: PLC0415 - see `import_archive_readers`

        try:
            check_archive(Path(self.path), self.name, deep=deep, stop=self.stop, progress=self.progress)
        except ProductFailed as exc:
            raise ProductFailed(f"{self.name}: {exc.reason}", kind=exc.kind, hint=exc.hint or _AGAIN) from exc


def import_archive_readers(product: Product, name: str) -> None:
    """Import the archive readers if `check_body` will need them, because its thread must not import modules."""
    if _is_checked_as_archive(name, deep=product.verify is Verify.DEEP):
        import bulkdl.content.archive_check  # noqa: F401, PLC0415


def _is_checked_as_archive(name: str, *, deep: bool) -> bool:
    """Tell whether a file of that name is checked as an archive."""
    return name.lower().endswith((*_ZIP_SUFFIXES, *_TAR_SUFFIXES, *_PACKED_SUFFIXES) if deep else _ZIP_SUFFIXES)
