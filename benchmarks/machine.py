"""Description of the machine and the versions that were measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from .servers import nginx_executable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .tools import Tool

__all__ = ["describe"]


def describe(tools: Iterable[Tool], *, folder: Path) -> dict[str, str]:
    """Return the machine and the versions, each under a short name, in the order of the page."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{pages / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "load before": f"{loads} (1, 5, 15 minutes)",
        "files on": _file_system(folder),
        "Python": f"{platform.python_version()}, aiohttp {_package('aiohttp')}, uvloop {_package('uvloop')}",
        "server": _nginx(),
        **{tool.name: tool.version for tool in tools},
    }


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _file_system(folder: Path) -> str:
    try:
        rows = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    under = [row for row in rows if folder.is_relative_to(row[1])]
    return max(under, key=lambda row: len(row[1]))[2] if under else "unknown"


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _nginx() -> str:
    done = subprocess.run([nginx_executable() or "nginx", "-v"], capture_output=True, text=True, check=False)
    return done.stderr.strip().removeprefix("nginx version: ") + " on loopback, sharing the cores with its clients"
