"""The compared tools: each is called as in an unattended job, with the same timeouts and the same information."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import bulkdl

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NAMES", "SILENCE_S", "Errand", "Tool", "present"]

TRIES = 2
SILENCE_S = 3
"""Time without a byte after which each tool must give up its connection (s)."""
NAMES = ("bulkdl", "aria2c", "curl", "wget2", "parfive", "pypdl")


@dataclass(frozen=True, slots=True)
class Errand:
    """The information that a tool gets about the product."""

    url: str
    folder: Path
    name: str | None
    """None: the tool must take the name from the answer."""
    digest: str | None
    """SHA-256, in hex."""
    connections: int
    scratch: Path
    """For a manifest."""
    silence_s: int = SILENCE_S


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    version: str
    command: Callable[[Errand], list[str]]
    flags: str
    """Command-line options as the table shows them."""
    digest_modes: str = "FRC"
    """Modes that are also tried with a checksum; none if the tool accepts no checksum."""
    splits: bool = True
    unfinished: tuple[str, ...] = ()
    """Name endings of files that are no products: partials and control files."""
    control: str = ""
    """Name ending of the file that marks the product beside it as unfinished."""


def _bulkdl(errand: Errand) -> list[str]:
    product: dict[str, object] = {"url": errand.url}
    if errand.name is not None:
        product["file"] = errand.name
    if errand.digest is not None:
        product["checksum"] = f"sha256:{errand.digest}"
    manifest = errand.scratch / "manifest.yaml"
    manifest.write_text(json.dumps({"version": 1, "products": [product]}), encoding="utf-8")
    flags = ["-d", str(errand.folder), "-s", str(errand.connections), "--retries", str(TRIES)]
    patience = ["--timeout", str(errand.silence_s), "--max-wait", "5", "--progress", "none", "--json"]
    return [sys.executable, "-m", "bulkdl", "run", str(manifest), *flags, *patience]


def _aria2c(errand: Errand) -> list[str]:
    count = str(errand.connections)
    command = ["aria2c", "--no-conf", "-c", "-x", count, "-s", count, "-k", "1M", "-d", str(errand.folder)]
    command += [f"--max-tries={TRIES}", "--retry-wait=1", f"--timeout={errand.silence_s}", "--connect-timeout=5"]
    command += ["--auto-file-renaming=false", "--file-allocation=none", "--no-netrc", "--disable-ipv6"]
    if errand.name is not None:
        command += ["-o", errand.name]
    if errand.digest is not None:
        command += [f"--checksum=sha-256={errand.digest}", "--check-integrity=true"]
    return [*command, errand.url]


def _curl(errand: Errand) -> list[str]:
    command = ["curl", "-q", "-sSfL", "--retry", str(TRIES - 1), "--retry-delay", "1", "--connect-timeout", "5"]
    command += ["--speed-limit", "1", "--speed-time", str(errand.silence_s)]
    if errand.name is None:  # -C - and -J exclude each other
        return [*command, "-OJ", "--output-dir", str(errand.folder), errand.url]
    return [*command, "-C", "-", "-o", str(errand.folder / errand.name), errand.url]


def _wget2(errand: Errand) -> list[str]:
    command = ["wget2", "--no-config", "-q", "-c", f"--tries={TRIES}", "--waitretry=1", "-P", str(errand.folder)]
    command += [f"--read-timeout={errand.silence_s}", "--connect-timeout=5", "--no-hsts", "--no-netrc"]
    if errand.name is None:
        command.append("--content-disposition")
    return [*command, errand.url]


def _peer(name: str, python: str) -> Callable[[Errand], list[str]]:
    script = str(Path(__file__).with_name("peers.py"))

    def command(errand: Errand) -> list[str]:
        known = [errand.name or "-", errand.digest or "-", str(errand.connections), str(TRIES)]
        return [python, script, name, errand.url, str(errand.folder), *known]

    return command


def present(names: tuple[str, ...], *, python_peers: str | None = None) -> list[Tool]:
    """Return those of `names` that can run here, in the order of `NAMES`."""
    found = (_find(name, python_peers or sys.executable) for name in NAMES if name in names)
    return [tool for tool in found if tool is not None]


def _find(name: str, python: str) -> Tool | None:
    if name in {"parfive", "pypdl"}:
        version = _said(python, "-c", f"import {name}; print({name}.__version__)")
        return None if version is None else _python_peer(name, python, version)
    command = [sys.executable, "-m", "bulkdl"] if name == "bulkdl" else [name]
    said = _said(*command, "--version") if name == "bulkdl" or shutil.which(name) else None
    if said is None:
        return None
    version = next((word for word in said.split() if word[:1].isdigit()), said)
    version += f", source {_source()}" if name == "bulkdl" else ""
    patience = f"{TRIES} tries, {SILENCE_S} s of silence"
    return {
        "bulkdl": Tool(
            name,
            version,
            _bulkdl,
            f"`run MANIFEST --retries {TRIES} --timeout {SILENCE_S} --max-wait 5 -s 1` (or `-s 4`), `checksum: sha256:…`",
            unfinished=(".part",),
        ),
        "aria2c": Tool(
            name,
            version,
            _aria2c,
            f"`-c -x1 -s1` (or 4) `-k1M --auto-file-renaming=false --file-allocation=none --retry-wait=1`, {patience}; "
            "`--checksum=sha-256=… --check-integrity`",
            unfinished=(".aria2",),
            control=".aria2",
        ),
        "curl": Tool(
            name,
            version,
            _curl,
            f"`-fL -C - -o NAME --retry {TRIES - 1} --retry-delay 1 --speed-limit 1 --speed-time {SILENCE_S}` "
            "(`-OJ` where the name is the archive's); takes no checksum and no second connection",
            digest_modes="",
            splits=False,
        ),
        "wget2": Tool(
            name,
            version,
            _wget2,
            f"`-c --waitretry=1`, {patience}; takes no checksum with a URL; with `--chunk-size` this version did not end, not even "
            "with an honest archive",
            digest_modes="",
            splits=False,
        ),
    }[name]


def _source() -> str:
    """Return a fingerprint of bulkdl's code, so that results of different versions are not mixed."""
    package = Path(bulkdl.__file__).parent
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:8]


def _python_peer(name: str, python: str, version: str) -> Tool:
    flags = {
        "parfive": f"`Downloader(max_splits=1)` (or 4), `enqueue_file(…, checksum=…)`, {TRIES} times; see `peers.py`",
        "pypdl": f"`Pypdl().start(…, segments=1` (or 4)`, retries={TRIES - 1})`, then `validate_hash`; see `peers.py`",
    }[name]
    leftovers = (".json", *(f".{i}" for i in range(8))) if name == "pypdl" else ()
    # parfive always starts again, and pypdl leaves the comparison of the hash to its caller: other modes add nothing.
    return Tool(name, version, _peer(name, python), flags, digest_modes="F", unfinished=leftovers)


def _said(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
