"""Small products are written whole, verified from memory and moved in batches, with the same result as one by one."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from blake3 import blake3

from bulkdl.content.verify import check_body, check_product
from bulkdl.core.errors import ProductFailed, StorageStopped
from bulkdl.core.models import Checksum, FailureKind, Product, Verify
from bulkdl.core.urls import Url
from bulkdl.journal.journal import Journal
from bulkdl.journal.records import Entry, Phase
from bulkdl.journal.row_codec import encode
from bulkdl.storage.batch_files import place_all, write_whole
from bulkdl.storage.destination import Storage
from bulkdl.storage.file_info import FileFacts, look_at
from bulkdl.storage.mount_guard import forget_mount, remember_mount
from tests.harness import sha256
from tests.storage.storage_places import make_link, mounted
from tests.storage.storage_places import names as listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.clocks import ManualClock

BODY = random.Random(5).randbytes(4096)


def names(folder: Path) -> list[str]:
    return sorted(listed(folder))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A destination whose mount is remembered, as during a run."""
    root = tmp_path / "products"
    root.mkdir()
    remember_mount(root)
    yield root
    forget_mount(root)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count system calls by name; pytest itself calls some between its steps."""
    found: Counter[str] = Counter()

    def counted(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        found[call.__name__] += 1
        return call(*arguments, **named)

    for name in ("open", "stat", "lstat", "fstat", "pwrite", "ftruncate", "fsync", "close", "mkdir", "link", "unlink"):
        monkeypatch.setattr(os, name, partial(counted, getattr(os, name)))
    return found


# --- Writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [set, lambda: {"a"}], ids=["new-folder", "known-folder"])
@pytest.mark.parametrize("before", [None, b"", b"shorter", bytes(10_000)], ids=["none", "empty", "shorter", "longer"])
def test_the_body_is_all_that_the_partial_has_whatever_was_in_it(
    home: Path, before: bytes | None, known: Callable[[], set[str]]
):
    part, seen = home / "a/x.part", known()
    if before is not None:
        part.parent.mkdir()
        part.write_bytes(before)
    facts = write_whole(home, "a/x.part", BODY, known=seen)
    assert part.read_bytes() == BODY
    assert facts == FileFacts(len(BODY), part.stat().st_mtime_ns, is_file=True)
    assert seen == {"a"}


@pytest.mark.parametrize("known", [set, lambda: {""}], ids=["new-folder", "known-folder"])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda path: path.mkdir(), "a folder with this name is in the way", id="folder"),
        pytest.param(make_link, "a symbolic link is in the way", id="link"),
        pytest.param(os.mkfifo, "not a regular file", id="fifo"),
    ],
)
def test_what_is_no_file_at_the_partials_name_fails_the_product_and_stays(
    home: Path, make: Callable[[Any], None], says: str, known: Callable[[], set[str]]
):
    make(home / "x.part")
    before = (home / "x.part").lstat()
    with pytest.raises(ProductFailed, match=says):
        write_whole(home, "x.part", BODY, known=known())
    assert (home / "x.part").lstat() == before
    assert names(home) == ["x.part"]


@pytest.mark.parametrize("known", [set, lambda: {""}], ids=["unseen", "known"])
def test_a_final_file_that_shares_its_inode_with_the_partial_is_not_overwritten(
    home: Path, known: Callable[[], set[str]]
):
    """A move interrupted between link and unlink leaves one file with two names."""
    (home / "a.bin").write_bytes(b"the product")
    os.link(home / "a.bin", home / "a.bin.part")
    write_whole(home, "a.bin.part", BODY, known=known())
    assert ((home / "a.bin").read_bytes(), (home / "a.bin.part").read_bytes()) == (b"the product", BODY)


def test_a_new_partial_in_a_known_folder_takes_six_calls(home: Path, calls: Counter[str]):
    """For very many small files, system calls dominate the cost."""
    calls.clear()
    write_whole(home, "x.part", BODY, known={""})
    assert calls == {"open": 1, "pwrite": 1, "fsync": 1, "fstat": 2, "close": 1}


def test_a_known_folder_that_is_gone_is_made_again(home: Path):
    write_whole(home, "a/x.part", BODY, known={"a"})
    assert (home / "a/x.part").read_bytes() == BODY


@pytest.mark.parametrize("known", [set, lambda: {""}], ids=["new-folder", "known-folder"])
def test_nothing_stays_below_the_mount_point_of_another_disk(home: Path, known: Callable[[], set[str]]):
    with mounted_over(home):
        with pytest.raises(StorageStopped, match="another file system"):
            write_whole(home, "x.part", BODY, known=known())
        assert names(home) == []


def mounted_over(home: Path) -> Any:
    home.rmdir()
    return mounted(home, "size=1m")


# --- Moving -----------------------------------------------------------------------------------------------------------


def test_in_a_batch_every_file_that_can_be_renamed_is_renamed(home: Path):
    (home / "b").write_bytes(b"in the way")
    for name in ("a", "b", "d"):
        write_whole(home, f"{name}.part", BODY, known=set())
    found = place_all(home, [(f"{name}.part", name, False) for name in "abcd"])
    kinds = [result.kind if isinstance(result, ProductFailed) else type(result) for result in found]
    assert kinds == [FileFacts, FailureKind.CONFLICT, FailureKind.STORAGE, FileFacts]
    assert found[0] == FileFacts(len(BODY), (home / "a").stat().st_mtime_ns, is_file=True)
    assert names(home) == ["a", "b", "b.part", "d"]
    assert (home / "b").read_bytes() == b"in the way"


def test_the_destination_and_its_folder_are_looked_at_once_for_all_that_are_moved(home: Path, calls: Counter[str]):
    for number in range(20):
        write_whole(home, f"{number}.part", BODY, known={""})
    calls.clear()
    found = place_all(home, [(f"{number}.part", str(number), False) for number in range(20)])
    assert {type(result) for result in found} == {FileFacts}
    assert calls["link"] == calls["unlink"] == 20
    assert calls["fsync"] == 1
    assert calls["stat"] + calls["lstat"] <= 20 + 5


def test_on_another_disk_nothing_is_moved(home: Path):
    with mounted_over(home):
        for name in "ab":
            (home / f"{name}.part").touch()
        found = place_all(home, [(f"{name}.part", name, False) for name in "ab"])
        assert [type(result) for result in found] == [StorageStopped, StorageStopped]
        assert names(home) == ["a.part", "b.part"]


# --- Looking ----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_missing_takes_one_call(home: Path, calls: Counter[str]):
    files = [f"{number}.bin" for number in range(20)]
    for file in ("a", "b", "c"):
        (home / file).touch()
    calls.clear()
    assert look_at(home, files) == dict.fromkeys(files)
    assert calls == {"lstat": 20}


@pytest.mark.parametrize("folder", ["", "a/", "missing/"])
def test_many_missing_files_in_a_nearly_empty_folder_cost_one_stat(home: Path, calls: Counter[str], folder: str):
    files = [f"{folder}{number}.bin" for number in range(20)]
    (home / "a").mkdir()
    calls.clear()
    assert look_at(home, files) == dict.fromkeys(files)
    assert calls == {"lstat": 1}


@pytest.mark.parametrize("there", ["7.bin", "7.BIN", "7.bin.", "\N{KELVIN SIGN}"])
def test_a_file_is_checked_if_some_file_system_may_match_it_with_an_existing_name(
    home: Path, calls: Counter[str], there: str
):
    files = [f"{number}.bin" for number in range(20)]
    (home / there).touch()
    calls.clear()
    found = look_at(home, files)
    assert (found["7.bin"] is not None) == (home / "7.bin").exists()
    assert calls["lstat"] == (2 if there.isascii() else 20)


def test_a_folder_that_permits_listing_but_not_stat_stops_the_run(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "lstat", partial(_fail, errno.EIO))
    with pytest.raises(StorageStopped):
        look_at(home, [f"{number}.bin" for number in range(20)])


def test_files_are_found_in_a_folder_that_cannot_be_listed(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "7.bin").touch()
    monkeypatch.setattr(os, "scandir", partial(_fail, errno.EACCES))
    assert look_at(home, [f"{number}.bin" for number in range(20)])["7.bin"] == FileFacts(
        0, (home / "7.bin").stat().st_mtime_ns, is_file=True
    )


def _fail(code: int, path: str) -> None:
    raise OSError(code, os.strerror(code), path)


async def test_concurrent_queries_of_free_space_share_one_measurement(home: Path, monkeypatch: pytest.MonkeyPatch):
    looks: list[Path] = []
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: (looks.append(path), usage(path))[1])
    async with Storage(home) as storage:
        storage._free = (1 << 50, time.monotonic() - 3600)
        found = await asyncio.gather(*(storage.free_bytes(enough=1) for _ in range(32)))
        assert looks == [home]
        assert 0 < found[0] < 1 << 50
        assert await storage.free_bytes(enough=1) == found[0]
        assert await storage.free_bytes() > 0
    assert looks == [home, home]


# --- Verifying --------------------------------------------------------------------------------------------------------

PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
RIGHT = Checksum(*sha256(BODY).split(":"))
WRONG = Checksum("md5", "0" * 32)


@pytest.mark.parametrize(
    ("name", "body", "known"),
    [
        ("x.bin", BODY, {}),
        ("x.bin", BODY, {"size": len(BODY), "checksums": (RIGHT,)}),
        ("x.bin", BODY, {"checksums": (RIGHT, Checksum("sha256", RIGHT.hex.upper()))}),
        ("x.bin", BODY, {"checksums": (RIGHT, WRONG)}),
        ("x.bin", BODY, {"size": 7}),
        ("x.bin", b"", {}),
        ("x.bin", b"", {"size": 0}),
        ("x.bin", PAGE, {}),
        ("x.bin", PAGE, {"size": 7, "headers": (("Accept", "text/html"),)}),
        ("x.html", PAGE, {"headers": (("Accept", "text/html"),)}),
        ("x.zip", BODY, {}),
        ("x.ZIP", b"PK\3\4" + BODY, {"checksums": (WRONG,)}),
        ("x.zip", b"PK\3\4" + BODY, {}),
        ("x.gz", b"\x1f\x8b" + BODY, {}),
        ("x.gz", b"\x1f\x8b" + BODY, {"verify": Verify.DEEP}),
        ("x.tar.gz", b"\x1f\x8b" + BODY, {"verify": Verify.DEEP}),
    ],
)
async def test_a_body_in_memory_verifies_like_the_file_written_from_it(
    tmp_path: Path, name: str, body: bytes, known: dict[str, Any]
):
    path = tmp_path / "part"
    path.write_bytes(body)
    product = Product(index=0, url=Url("http://archive.example.org/p"), **known)
    try:
        expected: Any = await check_product(path, product, name=name)
    except ProductFailed as error:
        expected = error
    if not isinstance(expected, ProductFailed):
        # A body in memory is cheap to hash, so it always gets a digest for `verify`; a file gets it while it arrives.
        own = (Checksum("blake3", blake3(body).hexdigest()),)
        found = check_body(body, product, path=str(path), name=name)
        assert (found.digests, found.notes) == (expected.digests or own, expected.notes)
        return
    with pytest.raises(ProductFailed) as failed:
        check_body(body, product, path=str(path), name=name)
    assert (failed.value.kind, failed.value.reason, failed.value.hint) == (
        expected.kind,
        expected.reason,
        expected.hint,
    )


# --- Recording --------------------------------------------------------------------------------------------------------


async def test_text_of_any_characters_survives_the_round_trip(tmp_path: Path, clock: ManualClock):
    odd = [*map(chr, range(0x300)), "'\"", "\\'", "\u2028", "\udce9", "\U0001f6f0"]
    entries = {f"{n}{text}": Entry(id=f"{n}{text}", phase=Phase.DONE, note=text) for n, text in enumerate(odd)}
    async with Journal.open(tmp_path, clock=clock) as journal:
        await journal.put_all(list(entries.values()))
        found = await journal.entries()
        assert journal.recovered == ""
    assert {id_: entry.note for id_, entry in found.items()} == {id_: entry.note for id_, entry in entries.items()}


def test_the_crc_of_a_row_is_the_same_as_in_journals_of_earlier_versions():
    plain = Entry(
        id="a/b.zip",
        phase=Phase.PLACING,
        file="a/b.zip",
        source="https://archive.example.org/a",
        total=7,
        etag='"1"',
        ranges=((0, 5), (6, 7)),
        part="a/b.zip.part",
        size=7,
        mtime_ns=3,
        digests=(Checksum("md5", "00"),),
        attempts=2,
    )
    odd = Entry(id="é", phase=Phase.FAILED, failure_kind=FailureKind.HTTP, failure_reason='it\'s "gone"')
    assert encode(plain, updated=1)[-1] == 43882889
    assert encode(odd, updated=1.5)[-1] == 3016687077
