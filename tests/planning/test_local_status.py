"""Status of a file at a product's final path: one row for each state of journal and manifest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bulkdl.core.models import Checksum, Product
from bulkdl.core.urls import Url
from bulkdl.journal.records import Entry, Phase
from bulkdl.planning.local_status import LocalFileStatus, local_status
from bulkdl.storage.file_info import FileFacts

MD5 = Checksum("md5", "0" * 32)
OTHER_MD5 = Checksum("md5", "1" * 32)
SHA = Checksum("sha256", "0" * 64)
HERE = FileFacts(size=10, mtime_ns=7, is_file=True)
FOLDER = FileFacts(size=10, mtime_ns=7, is_file=False)


def product(size: int | None = None, *checksums: Checksum) -> Product:
    return Product(index=0, url=Url("https://a.example.org/a"), file="a", size=size, checksums=checksums)


def unpacked() -> Product:
    return replace(product(10), extract=True)


def entry(phase: Phase, size: int | None = 10, mtime: int | None = 7, *digests: Checksum) -> Entry:
    return Entry(id="a", phase=phase, file="a", size=size, mtime_ns=mtime, digests=digests)


DONE, PLACING, REQUEUED = Phase.DONE, Phase.PLACING, Phase.REQUEUED
ROWS = [
    ("no file, nothing known", product(), None, None, LocalFileStatus.ABSENT),
    ("no file, though it was done", product(10), entry(DONE), None, LocalFileStatus.ABSENT),
    ("no file, requeued", product(10), entry(REQUEUED), None, LocalFileStatus.ABSENT),
    ("a folder", product(10), None, FOLDER, LocalFileStatus.CONFLICTS),
    ("a folder in the place of a requeued file", product(10), entry(REQUEUED), FOLDER, LocalFileStatus.CONFLICTS),
    ("requeued", product(10), entry(REQUEUED, None, None), HERE, LocalFileStatus.REPLACE),
    ("requeued, another size", product(99), entry(REQUEUED, None, None), HERE, LocalFileStatus.REPLACE),
    ("requeued, and replaced before a crash", product(10), entry(REQUEUED), HERE, LocalFileStatus.IN_PLACE),
    (
        "requeued, a crash before the move left the old file",
        product(10),
        entry(REQUEUED, 10, 8),
        HERE,
        LocalFileStatus.REPLACE,
    ),
    ("nothing known", product(), None, HERE, LocalFileStatus.UNVERIFIABLE),
    ("nothing known, a partial", product(), entry(Phase.PARTIAL, None), HERE, LocalFileStatus.UNVERIFIABLE),
    ("nothing known, failed before", product(), entry(Phase.FAILED, None), HERE, LocalFileStatus.UNVERIFIABLE),
    ("nothing known but that it was done", product(), entry(DONE, None), HERE, LocalFileStatus.UNVERIFIABLE),
    ("the manifest's size agrees", product(10), None, HERE, LocalFileStatus.IN_PLACE),
    ("the manifest's size is another", product(11), None, HERE, LocalFileStatus.CONFLICTS),
    ("the manifest's size is 0", product(0), None, HERE, LocalFileStatus.CONFLICTS),
    ("a checksum", product(None, MD5), None, HERE, LocalFileStatus.NEEDS_CHECKSUM),
    ("a size that agrees and a checksum", product(10, MD5), None, HERE, LocalFileStatus.NEEDS_CHECKSUM),
    ("a size that disagrees and a checksum", product(11, MD5), None, HERE, LocalFileStatus.CONFLICTS),
    ("done, untouched", product(), entry(DONE), HERE, LocalFileStatus.IN_PLACE),
    ("done, another size now", product(), entry(DONE, 11), HERE, LocalFileStatus.CONFLICTS),
    ("done, and the manifest's size is another", product(11), entry(DONE), HERE, LocalFileStatus.CONFLICTS),
    ("done, touched, nothing to compare", product(), entry(DONE, 10, 8), HERE, LocalFileStatus.IN_PLACE),
    ("done, touched, a digest to compare", product(), entry(DONE, 10, 8, MD5), HERE, LocalFileStatus.NEEDS_CHECKSUM),
    ("done with this checksum", product(10, MD5), entry(DONE, 10, 7, MD5), HERE, LocalFileStatus.IN_PLACE),
    ("done with more checksums", product(10, MD5), entry(DONE, 10, 7, MD5, SHA), HERE, LocalFileStatus.IN_PLACE),
    (
        "done, a checksum was added",
        product(10, MD5, SHA),
        entry(DONE, 10, 7, MD5),
        HERE,
        LocalFileStatus.NEEDS_CHECKSUM,
    ),
    (
        "done, the checksum was changed",
        product(10, OTHER_MD5),
        entry(DONE, 10, 7, MD5),
        HERE,
        LocalFileStatus.NEEDS_CHECKSUM,
    ),
    (
        "done with this checksum, touched",
        product(10, MD5),
        entry(DONE, 10, 8, MD5),
        HERE,
        LocalFileStatus.NEEDS_CHECKSUM,
    ),
    ("moved before a crash", product(), entry(PLACING), HERE, LocalFileStatus.IN_PLACE),
    (
        "moved before a crash, with its checksum",
        product(10, MD5),
        entry(PLACING, 10, 7, MD5),
        HERE,
        LocalFileStatus.IN_PLACE,
    ),
    ("a crash before the move left the old file", product(), entry(PLACING, 10, 8), HERE, LocalFileStatus.UNVERIFIABLE),
    ("the same, with a digest", product(), entry(PLACING, 10, 8, MD5), HERE, LocalFileStatus.NEEDS_CHECKSUM),
    ("the same, with another size", product(), entry(PLACING, 11, 8), HERE, LocalFileStatus.CONFLICTS),
]


@pytest.mark.parametrize(("what", "wanted", "known", "facts", "expected"), ROWS, ids=[row[0] for row in ROWS])
def test_the_status_of_a_file(what, wanted, known, facts, expected):
    assert local_status(wanted, known, facts) is expected


def test_every_status_is_in_the_table():
    assert {row[-1] for row in ROWS} == set(LocalFileStatus)
