"""Setup of a benchmark run: folders, files, the server, the contestants, and the sizes."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .figures import Sample
from .files import GIB, MIB, FileSet, checksums, make
from .process import Command, Exit, run
from .servers import Server, nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .figures import Limit
    from .tools import Tool

__all__ = ["FULL", "QUICK", "Contestant", "Row", "Scale", "Scene", "memory_folder", "room", "stage"]

_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The number and sizes of everything; sizes are bytes of each file."""

    name: str
    rounds: int
    """Measured rounds; a warm-up comes before them."""
    budget_s: float
    """Time limit of one row (s). No round starts that would exceed it, but one is always measured."""
    total_s: float
    """Time limit of all rows (s). Each gets its share of the rest, and none starts after it."""
    timeout_s: float
    """Time limit of one process (s)."""
    large: int
    single: int
    small_count: int
    late_count: int
    sparse: int
    rerun_count: int
    many_count: int
    manifests: tuple[int, int]


FULL = Scale(
    name="full",
    rounds=5,
    budget_s=75,
    total_s=1100,
    timeout_s=240,
    large=512 * MIB,
    single=512 * MIB,
    small_count=20_000,
    late_count=2_000,
    sparse=2 * GIB,
    rerun_count=5_000,
    many_count=100_000,
    manifests=(10_000, 100_000),
)
QUICK = Scale(
    name="quick",
    rounds=2,
    budget_s=12,
    total_s=150,
    timeout_s=45,
    large=64 * MIB,
    single=64 * MIB,
    small_count=2_000,
    late_count=400,
    sparse=GIB,
    rerun_count=500,
    many_count=2_000,
    manifests=(1_000, 10_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A participant in a row."""

    name: str
    attempt: Callable[[Path, int], Sample]
    """Run and measure one process, in an empty folder that is removed afterwards; the number is the round."""
    slow: bool = False
    """Take part in one round only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table of targets."""

    name: str
    title: str
    contestants: Callable[[Scene], list[Contestant]]
    """Prepare the row and return its contestants; raise `RuntimeError` if the row cannot run here."""
    limits: tuple[Limit, ...]
    reference: str
    """The contestant to which the row's table compares the others."""
    note: str = ""
    rounds: int | None = None
    """Number of rounds instead of the scale's, for a long row that hardly varies. With 1 there is no warm-up."""
    room: Callable[[Scale], int] = lambda _: 0
    """Peak space that the row's files and downloads need (bytes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The resources of the rows."""

    folder: Path
    """Temporary folder, in memory if there is enough space."""
    server: Server
    tools: tuple[Tool, ...]
    """bulkdl first, then the peers."""
    scale: Scale
    _digests: dict[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)

    def files(self, files: FileSet) -> None:
        """Create these files for nginx to serve."""
        make(files, self.folder / "root")

    @property
    def root(self) -> Path:
        """Folder that nginx serves."""
        return self.folder / "root"

    def checksums(self, files: FileSet, algorithm: str) -> Mapping[str, str]:
        """Return each file's digest, computed once."""
        key = (files.name, algorithm)
        if key not in self._digests:
            self._digests[key] = checksums(files, self.root, algorithm)
        return self._digests[key]

    def measure(self, command: Command, folder: Path) -> Exit | None:
        """Run a command; return None if it exceeded the scale's time limit."""
        return run(command, folder, timeout_s=self.scale.timeout_s)

    def sample(self, tool: str, round_: int, command: Command, done: Exit | None, problem: str | None) -> Sample:
        """Return the sample of a process; `done` is None if it did not end in time."""
        shown = self.shown(command)
        if done is None:
            late = f"not finished after {self.scale.timeout_s:g} s"
            return Sample(tool=tool, round=round_, command=shown, problem=late)
        return Sample(
            tool=tool,
            round=round_,
            wall_s=done.wall_s,
            cpu_s=done.cpu_s,
            rss_bytes=done.rss_bytes,
            command=shown,
            problem=problem,
        )

    def shown(self, command: Command) -> str:
        """Return a command line without this run's folders, ports and interpreter."""
        text = " ".join(shlex.quote(str(part)) for part in command.argv)
        text = re.sub(rf"{re.escape(str(self.folder / 'scratch'))}/[^/ ]+", "FOLDER", text)
        names = {str(self.folder): "FOLDER", sys.executable: "python", str(Path(__file__).parent): "benchmarks"}
        for path, name in names.items():
            text = text.replace(path, name)
        text = re.sub(r"[^\s']*/python[\d.]*(?= )", "python", text)
        for port in (self.server.http_port, self.server.https_port):
            text = text.replace(f"127.0.0.1:{port}", "127.0.0.1:PORT")
        return text

    def room(self) -> int:
        """Return the bytes that may still be written here."""
        return room(self.folder)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an empty folder that is removed after the block."""
        with _temporary(self.folder / "scratch") as folder:
            yield folder


def room(folder: Path) -> int:
    """Return the bytes that may be written below `folder`; in a memory file system, at most the available memory."""
    free = shutil.disk_usage(folder).free
    return min(free, _available()) if folder.is_relative_to(_MEMORY) else free


def memory_folder(need: int) -> Path | None:
    """Return a memory file system with space for 1.5 times `need` bytes; None if there is none."""
    return _MEMORY if _MEMORY.is_dir() and room(_MEMORY) > need * 3 // 2 else None


def _available() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


@contextlib.contextmanager
def stage(*, tools: tuple[Tool, ...], scale: Scale, need: int) -> Iterator[Scene]:
    """Provide folders and servers for as long as the block lasts. Raise `RuntimeError` without nginx."""
    with _temporary(memory_folder(need)) as folder:
        (folder / "root").mkdir()
        (folder / "scratch").mkdir()
        with nginx(folder, root=folder / "root") as server:
            yield Scene(folder=folder, server=server, tools=tools, scale=scale)


@contextlib.contextmanager
def _temporary(parent: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bulkdl-bench-", dir=parent) as name:
        yield Path(name)
