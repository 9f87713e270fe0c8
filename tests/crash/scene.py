"""A small scene: an archive with products, a destination, and the program as a process."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bulkdl.core.models import Product
from bulkdl.core.urls import Url
from bulkdl.demo_server.catalog import Item, Validators
from bulkdl.demo_server.generated_files import Kind
from bulkdl.demo_server.server import Archive, Route
from bulkdl.journal.reader import read
from bulkdl.journal.records import Entry, Phase
from bulkdl.protocol.byte_ranges import cover

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["ITEMS", "PATIENCE_S", "Done", "Scene", "program"]

PATIENCE_S = 100.0
"""A process that has not ended by then is a failure; nothing is judged by how long it took."""

ITEMS: Mapping[str, Item] = {
    item.name: item
    for item in (
        Item(name="tagged.bin", size=2_500_000, seed=1, validators=Validators.ETAG),
        Item(name="segments.zip", size=14_000_000, seed=2, kind=Kind.ZIP),
        Item(name="summed.bin", size=1_500_000, seed=3, validators=Validators.NONE),
        Item(name="empty.bin", size=0),
        Item(name="named.tif", size=1_200_000, seed=4, kind=Kind.TIFF),
        Item(name="dated.bin", size=900_000, seed=5, validators=Validators.DATE),
        Item(name="small.json", size=700, seed=6, kind=Kind.JSON),
        Item(name="below.nc", size=1_100_000, seed=7, kind=Kind.HDF5),
        Item(name="unsure.bin", size=400_000, seed=8, validators=Validators.WEAK),
    )
}
"""Products: strong ETag, date only, checksum only, several connections, empty, and one named by the archive."""


@dataclass(frozen=True, slots=True)
class Done:
    """Result of a process that has ended."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> Any:
        return json.loads(self.out)


async def program(*words: str, **options: Any) -> asyncio.subprocess.Process:
    """Start `python -m bulkdl` with these arguments; `env` adds variables, other options go to the process."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BULKDL_")}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bulkdl",
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=inherited | {"PYTHONUTF8": "1", "COLUMNS": "200"} | options.pop("env", {}),
        **options,
    )


async def ended(process: asyncio.subprocess.Process) -> Done:
    """Wait for the process and return its result; if it does not end, kill it and fail the test."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        raise AssertionError(f"the program did not end; it said:\n{err.decode()}") from None
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


@dataclass(slots=True)
class Scene:
    """One destination below `folder`, served by `archive`."""

    folder: Path
    archive: Archive
    items: Sequence[Item]
    destination: Path
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Product name -> additional manifest keys."""

    @property
    def manifest(self) -> Path:
        path = self.folder / f"{self.destination.name}.json"
        products = [self.product(item) for item in self.items]
        path.write_text(json.dumps({"version": 1, "destination": str(self.destination), "products": products}))
        return path

    def product(self, item: Item) -> dict[str, Any]:
        """Return the manifest entry; a product `named.*` gets its name from the archive."""
        more = dict(self.extra.get(item.name, {}))
        if item.name.startswith("named"):
            return {"url": self.archive.url(item, Route.DOWNLOAD), **more}
        file = f"a/b/{item.name}" if item.name.startswith("below") else item.name
        if item.validators in (Validators.NONE, Validators.WEAK) and item.name.startswith("summed"):
            more["checksum"] = f"sha256:{item.digest('sha256')}"
        return {"url": self.archive.url(item), "file": file, **more}

    def final(self, item: Item) -> Path:
        return self.destination / self.product(item).get("file", item.name)

    def entry(self, item: Item) -> Entry | None:
        """Return the journal entry of a product."""
        product = self.product(item)
        key = Product(index=0, url=Url(product["url"]), file=product.get("file")).id
        return (read(self.destination) or {}).get(key)

    async def start(self, *words: str, **options: Any) -> asyncio.subprocess.Process:
        flags = ("--json", "--progress", "plain", "--min-rate", "0", "--retries", "5")
        return await program("run", str(self.manifest), *flags, *words, **options)

    async def run(self, *words: str, **options: Any) -> Done:
        return await ended(await self.start(*words, **options))

    def durable(self) -> int:
        """Return the number of bytes recorded in the journal."""
        entries = (read(self.destination) or {}).values() if self.destination.exists() else ()
        return sum((e.size or 0) if e.phase in (Phase.DONE, Phase.PLACING) else cover(e.ranges) for e in entries)

    def assert_right(self) -> None:
        """Assert that every final file is its product byte for byte, and that the journal is sound."""
        for item in self.items:
            path = self.final(item)
            if path.exists():
                assert path.read_bytes() == item.read(), f"{path.name} is wrong at its final name"
        self.assert_sound()

    def assert_sound(self) -> None:
        path = self.destination / ".bulkdl" / "journal.sqlite"
        if path.exists():
            with closing(sqlite3.connect(path)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def finished(self) -> set[str]:
        """Return the names of products with a final file."""
        return {item.name for item in self.items if self.final(item).exists()}

    def assert_complete(self) -> None:
        """Assert that every product is in place and correct, and that no other file is left."""
        self.assert_right()
        assert self.finished() == {item.name for item in self.items}
        left = [p.name for p in self.destination.rglob("*.part")]
        assert left == []


@asynccontextmanager
async def scene(
    folder: Path, *, items: Sequence[Item] = tuple(ITEMS.values()), rate: float | None = None, name: str = "products"
) -> AsyncIterator[Scene]:
    """Run an archive beside an empty destination; `rate` is in bytes per second for each connection."""
    async with Archive(items, rate=rate) as archive:
        yield Scene(folder, archive, items, folder / name)
