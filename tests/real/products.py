"""Products for the archive, with the same bytes on every machine, and manifests for them."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml
from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

__all__ = ["Remote", "differing", "entry", "make", "sizes", "write_manifest"]

_PIECE = 1 << 20
_HASHES: dict[str, Callable[[bytes], Any]] = {
    "md5": hashlib.md5,
    "sha256": hashlib.sha256,
    "sha512": hashlib.sha512,
    "blake3": blake3,
}


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of the archive, with its size and checksum."""

    path: str
    """Path in the archive: `REALM/folder/name`."""
    file: str
    """Path in the destination folder."""
    size: int
    sha256: str
    checksum: str
    """In the form of a manifest; the algorithms alternate."""

    @property
    def realm(self) -> str:
        return self.path.split("/", 1)[0]


def sizes(count: int, *, smallest: int = 1000, largest: int, seed: int = 7) -> list[int]:
    """Return `count` sizes in bytes, most of them small, shuffled but always in the same order."""
    steps = [(i / max(1, count - 1)) ** 2 for i in range(count)]
    found = [int(smallest * (largest / smallest) ** step) for step in steps]
    random.Random(seed).shuffle(found)
    return found


def make(root: Path, realm: str, wanted: Sequence[int], *, seed: int, folder: str = "data") -> list[Remote]:
    """Write products of the wanted sizes (archives: a little over) under `root/realm/folder`."""
    base = random.Random(seed).randbytes(_PIECE)
    return [_make_one(root, f"{realm}/{folder}", index, size, base) for index, size in enumerate(wanted)]


def _make_one(root: Path, folder: str, index: int, size: int, base: bytes) -> Remote:
    body = _body(index, size, base)
    if index % 7 == 3:
        name, body = f"S2A MSIL1C {index:04d}.zip", _archive(f"{index:04d}.dat", body)
    elif index % 7 == 5:
        name, body = f"tile_{index:04d}.tif", b"II*\0" + body[4:]
    else:
        name = f"S1_ü_{index:04d}.dat"
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    algorithm = list(_HASHES)[index % len(_HASHES)]
    digest: str = _HASHES[algorithm](body).hexdigest()
    realm = folder.split("/", 1)[0]
    return Remote(
        path=f"{folder}/{name}",
        file=f"{realm}/{index % 4}/{name}",
        size=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
        checksum=f"{algorithm}:{digest}",
    )


def _body(index: int, size: int, base: bytes) -> bytes:
    """Return noise without equal parts, so that bytes at a wrong offset are noticed."""
    pieces = []
    for start in range(0, size, _PIECE):
        turn = (index * 7919 + start // _PIECE * 104_729) % _PIECE
        pieces.append(b"%016d" % (index * 1_000_000 + start // _PIECE) + base[turn:] + base[: max(0, turn - 16)])
    return b"".join(piece[:_PIECE] for piece in pieces)[:size]


def _archive(member: str, body: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo(member), body)
    return packed.getvalue()


def entry(remote: Remote, archive: str, /, **more: object) -> dict[str, object]:
    """Return the product's manifest entry, with size and checksum."""
    known = {
        "url": f"{archive}/{quote(remote.path)}",
        "file": remote.file,
        "size": remote.size,
        "checksum": remote.checksum,
    }
    return {key: value for key, value in (known | more).items() if value is not ...}


def write_manifest(
    path: Path, products: Iterable[dict[str, object]], *, accounts: dict[str, dict[str, object]] | None = None
) -> Path:
    """Write a manifest whose destination `products` is beside it."""
    content: dict[str, Any] = {"version": 1, "destination": "./products"}
    if accounts:
        content["accounts"] = accounts
    content["products"] = list(products)
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def differing(remotes: Iterable[Remote], destination: Path) -> list[str]:
    """Return the files that are missing or differ from the archive's."""
    return [remote.file for remote in remotes if _digest(destination / remote.file) != remote.sha256]


def _digest(path: Path) -> str:
    if not path.is_file():
        return "missing"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
