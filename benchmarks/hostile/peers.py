"""parfive and pypdl, used as in an unattended job. Runs under their own interpreter; imports nothing of ours.

peers.py parfive|pypdl URL FOLDER NAME|- SHA256|- CONNECTIONS TRIES
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path


def with_parfive(url: str, folder: str, *, name: str | None, digest: str | None, connections: int, tries: int) -> bool:
    aiohttp, parfive = import_module("aiohttp"), import_module("parfive")

    config = parfive.SessionConfig(timeouts=aiohttp.ClientTimeout(total=0, sock_connect=5, sock_read=3))
    for _ in range(tries):  # Downloader.retry() would lose the checksum
        downloader = parfive.Downloader(max_splits=connections, progress=False, config=config)
        downloader.enqueue_file(url, path=folder, filename=name, checksum=digest and f"sha-256={digest}")
        results = downloader.download()
        if not results.errors and len(results) == 1:
            return True
    return False


def with_pypdl(url: str, folder: str, *, name: str | None, digest: str | None, connections: int, tries: int) -> bool:
    aiohttp, pypdl = import_module("aiohttp"), import_module("pypdl")

    done = pypdl.Pypdl().start(
        url,
        file_path=str(Path(folder) / name) if name else folder,
        segments=connections,
        retries=tries - 1,
        hash_algorithms="sha256",
        display=False,
        timeout=aiohttp.ClientTimeout(sock_connect=5, sock_read=3),
    )
    if not done:
        return False
    _, validator = done[0]
    return digest is None or bool(validator.validate_hash(digest, "sha256"))


def main() -> int:
    tool, url, folder, name, digest, connections, tries = sys.argv[1:]
    fetch = {"parfive": with_parfive, "pypdl": with_pypdl}[tool]
    known = {"name": None if name == "-" else name, "digest": None if digest == "-" else digest}
    return 0 if fetch(url, folder, **known, connections=int(connections), tries=int(tries)) else 1


if __name__ == "__main__":
    sys.exit(main())
