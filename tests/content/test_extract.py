"""Unpacking: completely or not at all, never outside the folder; with real archives, good and hostile."""

from __future__ import annotations

import asyncio
import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from bulkdl.content.extract import DEFAULT_LIMITS, Limits, extract, folder_for
from bulkdl.core.errors import ProductFailed
from bulkdl.core.models import FailureKind

FILES = {"x/a.txt": b"hello", "x/deep/b.bin": bytes(3_000_000), "c ä.txt": b""}
LINUX = pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege on Windows")


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, members: list[tarfile.TarInfo | tuple[str, bytes]], *, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def symlink(name: str, target: str) -> tarfile.TarInfo:
    return special(name, tarfile.SYMTYPE, target)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


async def refused(archive: Path, target: Path, **options) -> ProductFailed:
    """Return the error, after checking that no new file is left."""
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(ProductFailed) as caught:
        await extract(archive, target, **options)
    assert sorted(target.parent.rglob("*")) == before
    assert archive.name in caught.value.reason
    return caught.value


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("S2A.SAFE.zip", "S2A.SAFE"),
        ("sub/a.tar.gz", "sub/a"),
        ("a.TGZ", "a"),
        ("a.tar.bz2", "a"),
        ("a.tar.xz", "a"),
        ("a.tar", "a"),
        ("a.b.kmz", "a.b"),
        ("product", "product.extracted"),
        ("a.bin", "a.bin.extracted"),
        ("a.nc.gz", "a.nc"),
        ("sub/a.csv.BZ2", "sub/a.csv"),
        ("a.xz", "a"),
        ("a.grib.zst", "a.grib"),
        (".gz", ".gz.extracted"),
        (".zip", ".zip.extracted"),
        ("sub/.zip", "sub/.zip.extracted"),
    ],
)
def test_the_folder_is_named_after_the_archive_and_never_the_same(name, folder):
    assert folder_for(name) == folder


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
async def test_an_archive_of_any_kind_is_unpacked_completely(tmp_path, suffix):
    archive = tmp_path / f"p.{suffix}"
    if suffix == "zip":
        make_zip(archive, FILES | {"empty/": b""})
    else:
        packing = suffix.partition(".")[2]
        make_tar(archive, [*FILES.items(), special("empty", tarfile.DIRTYPE)], mode=f"w:{packing}")
    seen: list[int] = []
    count = await extract(archive, tmp_path / "p", progress=seen.append)
    assert tree(tmp_path / "p") == FILES
    assert (tmp_path / "p" / "empty").is_dir()
    assert count == sum(len(data) for data in FILES.values())
    assert 0 < sum(seen) <= archive.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p", archive.name]


async def test_one_top_folder_of_the_same_name_is_not_nested(tmp_path):
    archive = make_zip(tmp_path / "S.SAFE.zip", {"S.SAFE/": b"", "S.SAFE/manifest.safe": b"m", "S.SAFE/m/a": b"a"})
    await extract(archive, tmp_path / "S.SAFE")
    assert tree(tmp_path / "S.SAFE") == {"manifest.safe": b"m", "m/a": b"a"}


@pytest.mark.parametrize(
    "members",
    [{"other/a": b"a"}, {"p/a": b"a", "b": b"b"}, {"p": b"a file of that name"}],
    ids=["other", "two", "file"],
)
async def test_any_other_top_folder_is_kept(tmp_path, members):
    await extract(make_zip(tmp_path / "p.zip", members), tmp_path / "p")
    assert tree(tmp_path / "p") == members


async def test_an_existing_folder_is_left_unchanged(tmp_path):
    archive = make_zip(tmp_path / "p.zip", {"a": b"new"})
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a").write_bytes(b"old")
    assert await extract(archive, tmp_path / "p") == 0
    assert tree(tmp_path / "p") == {"a": b"old"}


async def test_a_file_with_the_name_of_the_folder_is_a_conflict(tmp_path):
    (tmp_path / "p").write_bytes(b"mine")
    error = await refused(make_zip(tmp_path / "p.zip", {"a": b"a"}), tmp_path / "p")
    assert error.kind is FailureKind.CONFLICT


async def test_the_leftovers_of_a_killed_run_are_removed_first(tmp_path):
    half = tmp_path / ".p.extracting"
    half.mkdir()
    (half / "a").write_bytes(b"ha")
    await extract(make_zip(tmp_path / "p.zip", {"a": b"half"}), tmp_path / "p")
    assert tree(tmp_path) == {"p.zip": (tmp_path / "p.zip").read_bytes(), "p/a": b"half"}


async def test_the_longest_name_a_folder_can_have_is_fine(tmp_path):
    name = "n" * 251
    await extract(make_zip(tmp_path / f"{name}.zip", {"a": b"a"}), tmp_path / name)
    assert tree(tmp_path / name) == {"a": b"a"}


BAD_NAMES = [
    "../evil",
    "a/../../evil",
    "a/../b",
    "/etc/evil",
    "//host/evil",
    "C:/evil",
    "c:evil",
    "..\\evil",
    "\\evil",
    "a\\..\\..\\evil",
    "..",
    ".",
    "a\nb",
    "a\x1bb",
    "n" * 256,
    "x/" * 2100 + "deep",
]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
async def test_a_member_name_that_leads_outside_refuses_the_archive(tmp_path, name, kind):
    work = tmp_path / "work"
    work.mkdir()
    archive = work / f"p.{kind}"
    if kind == "zip":
        make_zip(archive, {"good": b"good", name: b"evil"})
    else:
        make_tar(archive, [("good", b"good"), (name, b"evil")])
    error = await refused(archive, work / "p")
    assert error.kind is FailureKind.CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize(
    "members",
    [
        [("a", b"1"), ("a", b"2")],
        [("a", b"1"), ("./a", b"2")],
        [("a", b"1"), ("a/b", b"2")],
        [("a/b", b"1"), ("a", b"2")],
        [symlink("l", "a"), symlink("l", "b")],
        [symlink("l", "a"), ("l", b"2")],
        [("l/x", b"2"), symlink("l", "a")],
        [symlink("l", "a"), ("l/x", b"2")],
    ],
)
async def test_two_members_with_one_path_refuse_the_archive(tmp_path, members):
    error = await refused(make_tar(tmp_path / "p.tar", members), tmp_path / "p")
    assert error.kind is FailureKind.CONTENT


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
async def test_a_device_refuses_the_archive(tmp_path, kind):
    error = await refused(make_tar(tmp_path / "p.tar", [special("dev", kind)]), tmp_path / "p")
    assert "device" in error.reason


async def test_a_device_in_a_zip_refuses_the_archive(tmp_path):
    info = zipfile.ZipInfo("pipe")
    info.create_system, info.external_attr = 3, (stat.S_IFIFO | 0o644) << 16
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr(info, b"")
    assert "device" in (await refused(tmp_path / "p.zip", tmp_path / "p")).reason


ESCAPES = {
    "absolute": [symlink("l", "/etc/passwd")],
    "upwards": [symlink("l", "../outside")],
    "upwards from deep": [symlink("a/b/l", "../../../outside")],
    "a drive": [symlink("l", "C:\\x")],
    "backslashes": [symlink("l", "..\\outside")],
    "empty": [symlink("l", "")],
    "down and up": [symlink("l", "a/../../outside")],
    # x is the root, so y is its parent although its text says `a`
    "through another link": [("a/f", b""), symlink("a/x", ".."), symlink("y", "a/x/..")],
    "through another link in other letters": [("a/f", b""), symlink("a/X", ".."), symlink("y", "a/x/..")],
    "beside its own top folder": [("p/f", b""), symlink("p/l", "../q")],
    "a hard link up": [special("l", tarfile.LNKTYPE, "../outside")],
    "a hard link to the root": [special("l", tarfile.LNKTYPE, "/etc/passwd")],
    "a hard link to nothing": [special("l", tarfile.LNKTYPE, "a")],
    "a hard link to a link": [symlink("s", "/etc/passwd"), special("l", tarfile.LNKTYPE, "s")],
}


@pytest.mark.parametrize("members", ESCAPES.values(), ids=ESCAPES)
async def test_a_link_that_leads_out_refuses_the_archive(tmp_path, members):
    (tmp_path / "outside").write_bytes(b"secret")
    error = await refused(make_tar(tmp_path / "p.tar", members), tmp_path / "p")
    assert error.kind is FailureKind.CONTENT


def zip_link(path: Path, target: bytes) -> Path:
    info = zipfile.ZipInfo("l")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"hello")
        archive.writestr(info, target)
    return path


@pytest.mark.parametrize("target", [b"../a", b"/a", b"x" * 5000])
async def test_a_link_in_a_zip_that_leads_out_or_is_absurd_refuses_the_archive(tmp_path, target):
    await refused(zip_link(tmp_path / "p.zip", target), tmp_path / "p")


@LINUX
async def test_links_inside_are_kept(tmp_path):
    members = [("d/a", b"hello"), symlink("d/l", "a"), symlink("up/l", "../d/a"), special("h", tarfile.LNKTYPE, "d/a")]
    await extract(make_tar(tmp_path / "p.tar", members), tmp_path / "p")
    await extract(zip_link(tmp_path / "q.zip", b"a"), tmp_path / "q")
    assert tree(tmp_path / "p") == dict.fromkeys(["d/a", "d/l", "up/l", "h"], b"hello")
    assert (tmp_path / "p/up/l").is_symlink()
    assert (tmp_path / "q/l").readlink() == Path("a")


@LINUX
async def test_an_executable_file_stays_executable_and_no_file_gets_special_bits(tmp_path):
    program = tarfile.TarInfo("run.sh")
    program.mode = 0o6755
    await extract(make_tar(tmp_path / "p.tar", [program, ("data", b"")]), tmp_path / "p")
    mode = (tmp_path / "p/run.sh").stat().st_mode
    assert mode & stat.S_IXUSR
    assert not mode & (stat.S_ISUID | stat.S_ISGID)
    assert not (tmp_path / "p/data").stat().st_mode & 0o111


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
async def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path, suffix):
    body = bytes(4_000_000)
    archive = tmp_path / f"p.{suffix}"
    make_zip(archive, {"a": body}) if suffix == "zip" else make_tar(archive, [("a", body)], mode="w:gz")
    error = await refused(archive, tmp_path / "p", limit=Limits(floor=1_000_000))
    assert "too much for its size" in error.reason
    assert await extract(archive, tmp_path / "p", limit=DEFAULT_LIMITS) == len(body)


async def test_copies_by_hard_links_count_towards_the_limit(tmp_path):
    members = [("a", bytes(100_000)), *(special(f"l{n}", tarfile.LNKTYPE, "a") for n in range(100))]
    archive = make_tar(tmp_path / "p.tar.gz", members, mode="w:gz")
    await refused(archive, tmp_path / "p", limit=Limits(floor=1_000_000))


async def test_a_sparse_file_larger_than_the_disk_is_no_space_and_leaves_nothing(tmp_path):
    info = tarfile.TarInfo("GNUSparseFile.0/a")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a"}
    info.pax_headers["GNU.sparse.realsize"] = str(2**55)
    body = b"1\n0\n0\n".ljust(512, b"\0")
    info.size = len(body)
    with tarfile.open(tmp_path / "p.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(body))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        await extract(tmp_path / "p.tar", tmp_path / "p", limit=Limits(floor=2**60))
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["p.tar"]


@pytest.mark.parametrize("suffix", ["zip", "tar"])
async def test_too_many_members_refuse_the_archive(tmp_path, suffix):
    members = {f"{n}": b"" for n in range(20)}
    archive = tmp_path / f"p.{suffix}"
    make_zip(archive, members) if suffix == "zip" else make_tar(archive, list(members.items()))
    assert "too many" in (await refused(archive, tmp_path / "p", limit=Limits(members=19))).reason


@pytest.mark.parametrize("name", ["p.zip", "p.tar", "p.tar.gz"])
async def test_a_broken_archive_leaves_nothing(tmp_path, name):
    archive = tmp_path / name
    whole = {"a": os.urandom(50_000), "b": os.urandom(50_000)}
    if name == "p.zip":
        make_zip(archive, whole)
    else:
        make_tar(archive, list(whole.items()), mode="w:gz" if name.endswith("gz") else "w")
    data = bytearray(archive.read_bytes())
    archive.write_bytes(data[:70_000])
    await refused(archive, tmp_path / "p")
    archive.write_bytes(b"\x28\xb5\x2f\xfd and so on")
    await refused(archive, tmp_path / "p")


async def test_a_zip_member_with_a_flipped_byte_leaves_nothing(tmp_path):
    archive = make_zip(tmp_path / "p.zip", {"a": b"a" * 100, "b": os.urandom(10_000)})
    data = bytearray(archive.read_bytes())
    data[5_000] ^= 1
    archive.write_bytes(data)
    assert "'b'" in (await refused(archive, tmp_path / "p")).reason


async def test_a_cancelled_extraction_ends_and_leaves_nothing(tmp_path):
    archive = make_zip(tmp_path / "p.zip", {f"{n}": bytes(100_000) for n in range(50)})
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def progress(_count: int) -> None:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(30)

    task = asyncio.create_task(extract(archive, tmp_path / "p", progress=progress))
    await begun.wait()
    assert (tmp_path / ".p.extracting").is_dir()
    assert not (tmp_path / "p").exists()
    task.cancel()
    loop.call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [p.name for p in tmp_path.iterdir()] == ["p.zip"]


async def test_a_folder_that_cannot_be_created_raises_an_os_error(tmp_path):
    archive = make_zip(tmp_path / "p.zip", {"a": b""})
    with pytest.raises(NotADirectoryError):
        await extract(archive, archive / "p")


COMPRESS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
SINGLE = bytes(range(256)) * 20_000


@pytest.mark.parametrize("content", [SINGLE, b"", b"x"])
@pytest.mark.parametrize("suffix", COMPRESS)
async def test_a_single_compressed_file_becomes_the_file_beside_it(tmp_path, suffix, content):
    archive = tmp_path / f"a.nc.{suffix}"
    archive.write_bytes(COMPRESS[suffix](content))
    target = tmp_path / folder_for(archive.name)
    (tmp_path / ".a.nc.extracting").write_bytes(b"left by a killed run")
    assert await extract(archive, target) == len(content)
    assert tree(tmp_path) == {"a.nc": content, archive.name: archive.read_bytes()}
    assert await extract(archive, target) == 0


async def test_a_gzip_file_of_two_members_is_unpacked_completely(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    await extract(tmp_path / "a.csv.gz", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("other", [b"", b"other", SINGLE[:-1], SINGLE + b"x"])
async def test_a_file_with_other_content_is_never_replaced_by_a_single_one(tmp_path, other):
    (tmp_path / "a.nc.gz").write_bytes(gzip.compress(SINGLE, mtime=0))
    (tmp_path / "a.nc").write_bytes(other)
    assert (await refused(tmp_path / "a.nc.gz", tmp_path / "a.nc")).kind is FailureKind.CONFLICT
    assert (tmp_path / "a.nc").read_bytes() == other


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(SINGLE, mtime=0)[:-5],
        gzip.compress(SINGLE, mtime=0)[:40] + b"xxx" + gzip.compress(SINGLE, mtime=0)[43:],
        b"plain",
        b"",
        b"PK\x03\x04",
        gzip.compress(bytes(30_000_000), 1, mtime=0),
        b"\x28\xb5\x2f\xfd broken",
    ],
    ids=["cut", "damaged", "plain", "empty", "zip", "bomb", "zstd"],
)
async def test_a_broken_single_file_leaves_nothing(tmp_path, data):
    (tmp_path / "a.nc.gz").write_bytes(data)
    error = await refused(tmp_path / "a.nc.gz", tmp_path / "a.nc", limit=Limits(floor=1 << 20))
    assert error.kind is FailureKind.CONTENT
    assert "a.nc.gz cannot be unpacked" in error.reason
