"""Download a list of URLs with a Python library: `python python_peer.py LIBRARY LIST FOLDER STREAMS PER_FILE`.

Each library is used as its own documentation shows, with as many streams and connections as the other contestants.
aiohttp shows the cost of a downloader that only requests, reads and writes: no retries, no checks, no journal.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path


def _parfive(urls: list[str], folder: str, streams: int, per_file: int) -> int:
    library = importlib.import_module("parfive")
    downloader = library.Downloader(max_conn=streams, max_splits=per_file, progress=False)
    for url in urls:
        downloader.enqueue_file(url, path=folder)
    return len(downloader.download().errors)


def _pypdl(urls: list[str], folder: str, streams: int, per_file: int) -> int:
    library = importlib.import_module("pypdl")
    tasks = [{"url": url, "file_path": str(Path(folder) / url.rsplit("/", 1)[1])} for url in urls]
    downloader = library.Pypdl(max_concurrent=streams)
    downloader.start(
        tasks=tasks, multisegment=per_file > 1, segments=per_file, display=False, block=True, overwrite=True
    )
    return len(downloader.failed)


def _aiohttp(urls: list[str], folder: str, streams: int, _per_file: int) -> int:
    library = importlib.import_module("aiohttp")
    left = iter(urls)
    failed = 0

    async def work(session: object) -> None:
        nonlocal failed
        for url in left:
            async with session.get(url) as response:  # type: ignore[attr-defined]
                body = await response.read()
            failed += response.status != 200
            with open(f"{folder}/{url.rsplit('/', 1)[1]}", "wb") as file:  # noqa: ASYNC230, PTH123 - as users write it
                file.write(body)

    async def download() -> None:
        async with library.ClientSession(connector=library.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(work(session) for _ in range(streams)))

    asyncio.run(download())
    return failed


def main() -> int:
    """Return 1 if the library reports failures."""
    name, listed, folder, streams, per_file = sys.argv[1:]
    download = {"parfive": _parfive, "pypdl": _pypdl, "aiohttp": _aiohttp}[name]
    return min(1, download(Path(listed).read_text().split(), folder, int(streams), int(per_file)))


if __name__ == "__main__":
    sys.exit(main())
