"""Brings a list of URLs with a Python library: `python python_peer.py LIBRARY LIST FOLDER STREAMS PER_FILE`.

Each library is used as its own documentation shows, with the number of streams and connections that the others have.
"""

from __future__ import annotations

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


def main() -> int:
    """Exit 1 when the library names failures."""
    name, listed, folder, streams, per_file = sys.argv[1:]
    bring = {"parfive": _parfive, "pypdl": _pypdl}[name]
    return min(1, bring(Path(listed).read_text().split(), folder, int(streams), int(per_file)))


if __name__ == "__main__":
    sys.exit(main())
