"""The compared tools, each as in an unattended job of four files at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .site import Site

__all__ = ["NAMES", "Tool", "present", "version"]

_AT_A_TIME = 4


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    command: Callable[[Site, Path], list[str]]
    """Return the command line; its files may be written into the folder, the products into `products` there."""
    logs_in: bool
    """It can log in, and renew a token."""
    flags: str


def _bulkdl(site: Site, folder: Path) -> list[str]:
    manifest: dict[str, object] = {"version": 1, "products": site.urls}
    if site.night.endpoint is not None:
        account = {"auth": "oidc", "token_url": site.token_url, "client_id": "c", "username": "u", "password": "${PW}"}
        manifest |= {"accounts": {"own": account}, "defaults": {"account": "own"}}
    path = folder / "manifest.yaml"
    path.write_text(json.dumps(manifest))
    more = ["-j", str(_AT_A_TIME), "--json", "--progress", "plain", "-d", str(folder / "products")]
    return [sys.executable, "-m", "bulkdl", "run", str(path), *more]


def _curl(site: Site, folder: Path) -> list[str]:
    config = folder / "curl.conf"
    pairs = zip(site.urls, site.names, strict=True)
    config.write_text("".join(f'url = "{url}"\noutput = "{folder / "products" / name}"\n' for url, name in pairs))
    return [*_words("curl", _CURL), "--config", str(config)]


def _aria2c(site: Site, folder: Path) -> list[str]:
    urls = folder / "urls.txt"
    urls.write_text("\n".join(site.urls))
    return [*_words("aria2c", _ARIA2C), "-d", str(folder / "products"), "-i", str(urls)]


def _words(program: str, flags: str) -> list[str]:
    return [shutil.which(program) or program, *flags.split()]


_CURL = (
    f"-q --silent --show-error --fail --parallel --parallel-max {_AT_A_TIME} --connect-timeout 60 "
    "--speed-limit 1024 --speed-time 60 --retry 100000 --retry-all-errors"
)
_ARIA2C = (
    f"--no-conf --quiet -j{_AT_A_TIME} -x1 -s1 -m0 --retry-wait=30 --max-file-not-found=0 --connect-timeout=60 --timeout=60 "
    "--file-allocation=none"
)
_TOOLS = (
    Tool("bulkdl", _bulkdl, logs_in=True, flags=f"run -j {_AT_A_TIME}"),
    Tool("curl", _curl, logs_in=False, flags=_CURL),
    Tool("aria2c", _aria2c, logs_in=False, flags=_ARIA2C),
)
NAMES = tuple(tool.name for tool in _TOOLS)


def present(names: tuple[str, ...]) -> list[Tool]:
    """Return the named tools that are on this machine."""
    return [t for t in _TOOLS if t.name in names and (t.name == "bulkdl" or shutil.which(t.name))]


def version(tool: Tool) -> str:
    command = [sys.executable, "-m", "bulkdl"] if tool.name == "bulkdl" else [tool.name]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return " ".join(done.stdout.split("\n")[0].split()[:3])
