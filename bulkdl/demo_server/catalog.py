"""Products of the demo archive: names, validators and digests, generated from a seed."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.demo_server.generated_files import Kind, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Catalogue", "Item", "Validators", "demo_catalogue"]

_BLOCK = 1 << 20
_EPOCH = 1_750_000_000
"""Last-Modified of the first version of each product: 15 June 2025 (Unix time)."""


class Validators(StrEnum):
    """Validators of a response (RFC 9110 §8.8)."""

    BOTH = "both"
    """A strong ETag and Last-Modified."""
    ETAG = "etag"
    DATE = "date"
    WEAK = "weak"
    """Only a weak ETag, which `If-Range` must not use (RFC 9110 §13.1.5)."""
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Product of the archive. Equal fields mean equal bytes, in every run and on every machine."""

    name: str
    size: int
    """Size in bytes."""
    seed: int = 0
    kind: Kind = Kind.BIN
    validators: Validators = Validators.BOTH
    last_modified: int = _EPOCH
    """Unix time in seconds."""

    @property
    def id(self) -> str:
        """Id of the product in `/download/{id}`, the same for all its versions."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:16]

    @property
    def etag(self) -> str:
        """Entity tag as sent: quoted, with the prefix `W/` if weak."""
        tag = hashlib.sha256(f"{self.name}:{self.size}:{self.seed}:{self.kind}".encode()).hexdigest()[:20]
        return f'W/"{tag}"' if self.validators is Validators.WEAK else f'"{tag}"'

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes `start` to `stop` (exclusive, clipped to the size); all bytes by default."""
        recipe = Recipe(self.kind, self.name, self.size, self.seed)
        return recipe.read(start, self.size if stop is None else stop)

    def blocks(self, size: int = _BLOCK) -> Iterator[bytes]:
        for start in range(0, self.size, size):
            yield self.read(start, start + size)

    def digest(self, algorithm: str = "md5") -> str:
        """Return the lower-case hex digest (md5, sha1, sha256, sha512 or blake3); cached."""
        return _digest(self, algorithm)

    def next_edition(self) -> Item:
        """Return a new version: same name and size, different bytes, a different ETag and a later date."""
        return replace(self, seed=self.seed + 1, last_modified=self.last_modified + 3600)


@lru_cache(maxsize=4096)
def _digest(item: Item, algorithm: str) -> str:
    hasher: Any = blake3() if algorithm == "blake3" else hashlib.new(algorithm, usedforsecurity=False)
    for block in item.blocks():
        hasher.update(block)
    return str(hasher.hexdigest())


class Catalogue:
    """Items by name and by id, in insertion order."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self._names: dict[str, Item] = {}
        self._ids: dict[str, str] = {}
        for item in items:
            self.put(item)

    def put(self, item: Item) -> None:
        """Add an item, or replace the item of the same name by a new version."""
        item.read(0, 1)  # raises `ValueError` if the kind cannot have this size
        self._names[item.name] = item
        self._ids[item.id] = item.name

    def named(self, name: str) -> Item | None:
        return self._names.get(name)

    def with_id(self, key: str) -> Item | None:
        name = self._ids.get(key)
        return None if name is None else self._names[name]

    @property
    def total_size(self) -> int:
        """Sum of all sizes in bytes."""
        return sum(item.size for item in self)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._names.values())

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Item:
        return self._names[name]


def demo_catalogue(count: int = 36, seed: int = 7) -> Catalogue:
    """Return `count` products with names in the style of Earth-observation archives; 36 products have about 50 MB.

    The kinds of the first ones are fixed, so even a small catalogue has an empty product and one of each kind.
    """
    rng = random.Random(seed)  # noqa: S311 - invented products, not secrets
    makers = (_sentinel2, _terrascope, _sentinel5p, _tile, _metadata)
    catalogue = Catalogue()
    for number in range(count):
        if number == len(makers):
            catalogue.put(Item(name="EMPTY_FLAG.bin", size=0, seed=seed))
            continue
        maker = makers[number % len(makers)]
        catalogue.put(replace(maker(rng, number), seed=rng.getrandbits(32)))
    return catalogue


def _day(rng: random.Random, number: int) -> str:
    return f"202506{1 + number % 28:02d}T{rng.randrange(9, 12):02d}{rng.randrange(60):02d}{rng.randrange(60):02d}"


def _sentinel2(rng: random.Random, number: int) -> Item:
    tile = f"T{rng.randrange(29, 36)}{rng.choice('STUV')}{rng.choice('EFGL')}{rng.choice('RSMN')}"
    day = _day(rng, number)
    name = f"S2A_MSIL1C_{day}_N0511_R{rng.randrange(1, 144):03d}_{tile}_{day[:9]}{number:06d}.zip"
    return Item(name=name, size=rng.randrange(2_000_000, 5_000_000), kind=Kind.ZIP)


def _terrascope(rng: random.Random, number: int) -> Item:
    band = rng.choice(("NDVI_10M", "FAPAR_10M", "TOC-B04_10M", "SCENECLASSIFICATION_20M"))
    name = f"S2B_{_day(rng, number)}_31UFS_{band}_V{200 + number}.tif"
    return Item(name=name, size=rng.randrange(800_000, 2_500_000), kind=Kind.TIFF)


def _sentinel5p(rng: random.Random, number: int) -> Item:
    day = _day(rng, number)
    name = f"S5P_OFFL_L2__NO2____{day}_{day[:9]}235959_{39000 + number}_03_020800.nc"
    return Item(name=name, size=rng.randrange(1_000_000, 3_000_000), kind=Kind.HDF5)


def _tile(rng: random.Random, number: int) -> Item:
    name = f"T31UFS_{_day(rng, number)}_B{1 + number % 12:02d}_10m.jp2"
    return Item(name=name, size=rng.randrange(300_000, 900_000), kind=Kind.JP2)


def _metadata(rng: random.Random, number: int) -> Item:
    name = f"STAC_S2A_MSIL1C_{_day(rng, number)}_{number}.json"
    return Item(name=name, size=rng.randrange(1_000, 20_000), kind=Kind.JSON)
