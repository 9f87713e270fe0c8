"""One trial: one tool, case and mode in its own folder, and the file at the final name afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from benchmarks.hostile.behaviours import HTML, changing, cut_and_gone, cut_and_stall, plain, spliced
from benchmarks.hostile.cases import Case, Mode
from benchmarks.hostile.site import Site, bytes_of, zip_of
from benchmarks.hostile.tools import SILENCE_S, Errand, Tool
from tests.servers import RawServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

__all__ = ["LIMIT_S", "Found", "Result", "Trial", "classify", "groups_of", "run", "trials_of"]

LIMIT_S = 20.0
"""Time limit of one run (s)."""
SIZE, LARGE = 200_000, 8 * 1024 * 1024
PACE = 3_300_000.0
"""Rate of each connection at which several connections pay off (bytes/s)."""
SETTLE_S = 1.3
"""Time from the last byte to `kill -9`, in which the bytes may reach the disk (s)."""


class Found(Enum):
    """State of the final name."""

    RIGHT = "right"
    WRONG = "wrong"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Trial:
    tool: Tool
    case: Case
    mode: Mode
    checked: bool

    @property
    def blind(self) -> bool:
        """True if no tool could detect the wrong bytes."""
        return self.case.blind and not self.checked

    def __str__(self) -> str:
        return f"{self.tool.name}: {self.case.name} ({self.mode.value}, {'with' if self.checked else 'no'} checksum)"


@dataclass(frozen=True, slots=True)
class Result:
    trial: Trial
    found: Found
    what: str
    """Kind of a wrong file."""
    code: int | None
    """Exit code of the last run; None: it reached the time limit."""
    marked: bool
    """A control file marks the product as unfinished."""
    crashed: bool
    """The tool crashed and said so."""
    resumed: bool
    """The measured run requested a range after the first byte."""

    @property
    def success(self) -> bool:
        return self.code == 0


def trials_of(tool: Tool, case: Case) -> list[Trial]:
    """Return a trial for every applicable mode; with a checksum if the tool accepts one."""
    modes = [Mode(letter) for letter in case.modes if tool.splits or letter != Mode.SEVERAL.value]
    bare = [Trial(tool, case, mode, checked=False) for mode in modes]
    return bare + [Trial(tool, case, mode, checked=True) for mode in modes if mode.value in tool.digest_modes]


def classify(body: bytes | None, rights: Sequence[bytes], editions: Sequence[bytes]) -> tuple[Found, str]:
    """Return the kind of `body`.

    Only `rights` are correct, and `editions` are all versions that the archive has had.
    """
    if body is None:
        return Found.ABSENT, ""
    if body in rights:
        return Found.RIGHT, ""
    if not body:
        return Found.WRONG, "empty"
    if body in editions:
        return Found.WRONG, "an edition that the checksum excludes"
    if HTML in body or body[:1] in b"<{":
        return Found.WRONG, "a page or an error"
    if any(edition.startswith(body) for edition in editions):
        return Found.WRONG, "truncated"
    if body.startswith(b"\x1f\x8b"):
        return Found.WRONG, "still compressed"
    return Found.WRONG, "spliced or damaged"


def groups_of(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Group trials that start with the same run: each continues from a copy of its result."""
    groups: dict[object, list[Trial]] = {}
    for number, trial in enumerate(trials):
        case, mode = trial.case, trial.mode
        alone = number if mode in {Mode.FRESH, Mode.SEVERAL} else None
        edition = _checked_edition(trial) if trial.checked else None
        groups.setdefault((alone, trial.tool.name, mode, case.marks, case.size, case.path, edition), []).append(trial)
    return list(groups.values())


async def run(
    trials: Sequence[Trial], root: Path, *, silence_s: int = SILENCE_S, limit_s: float = LIMIT_S
) -> AsyncIterator[Result]:
    """Run the trials of one group in `root`, an empty folder that the caller removes.

    `silence_s`: seconds without a byte after which the tools give a connection up; `limit_s`: seconds that one run may
    take.
    """
    first = trials[0]
    site, stage = _site(first, root), Stage(root, limit_s=limit_s)
    rights = [site.editions[_checked_edition(first)]] if first.checked else list(site.editions)
    async with RawServer(site) as server:
        errand = Errand(
            url=server.url(first.case.path),
            folder=stage.folder,
            name=_name(first.case),
            digest=hashlib.sha256(rights[0]).hexdigest() if first.checked else None,
            connections=4 if first.mode is Mode.SEVERAL else 1,
            scratch=stage.scratch,
            silence_s=silence_s,
        )
        command = first.tool.command(errand)
        await _before(first.mode, site, stage, command)
        stage.keep()
        for trial in trials:
            stage.restore()
            site.begin(trial.case.behave, edition=_served_edition(trial))
            code = await stage.do(command)
            yield _judged(trial, stage, site, rights, code)
        # A client that disconnects early is no error of the behaviour.
        server.errors[:] = [e for e in server.errors if not isinstance(e, (OSError, asyncio.IncompleteReadError))]


def _name(case: Case) -> str | None:
    return case.path.rpartition("/")[2] if case.named else None


def _site(trial: Trial, root: Path) -> Site:
    several, case = trial.mode is Mode.SEVERAL, trial.case
    size = case.size if case.size is not None else LARGE if several else SIZE
    later = size + 5000 if trial.mode is Mode.AFTER else size
    make = zip_of if case.zipped else bytes_of
    site = Site((make(size, 1), make(later, 2)), marks=case.marks)
    site.pace = PACE if several else None
    site.outside = str(root / "trial" / "outside")
    return site


async def _before(mode: Mode, site: Site, stage: Stage, command: list[str]) -> None:
    """Do the run before the measured one, if there is one."""
    if mode is Mode.KILLED:
        site.begin(cut_and_stall)
        await stage.do(command, kill_after=site.stalled)
    elif mode in {Mode.RESUME, Mode.CHANGED, Mode.AFTER}:
        site.begin(plain if mode is Mode.AFTER else cut_and_gone)
        await stage.do(command)


def _judged(trial: Trial, stage: Stage, site: Site, rights: Sequence[bytes], code: int | None) -> Result:
    name = _name(trial.case)
    body, astray = stage.product(trial.tool, name)
    found, what = (Found.WRONG, astray) if astray else classify(body, rights, site.editions)
    control = stage.folder / f"{name}{trial.tool.control}"
    marked = found is Found.WRONG and bool(trial.tool.control) and control.exists()
    return Result(trial, found, what, code, marked, stage.crashed, site.resumed)


def _changes(case: Case) -> bool:
    return case.behave in {changing, spliced}


def _served_edition(trial: Trial) -> int:
    """Return the archive's version at the start of the measured run."""
    later = trial.mode in {Mode.CHANGED, Mode.AFTER} or (trial.mode is Mode.KILLED and _changes(trial.case))
    return int(later)


def _checked_edition(trial: Trial) -> int:
    """Return the version whose checksum is given: the later one, unless the first is already complete."""
    if trial.mode is Mode.AFTER:
        return 0
    return int(trial.mode is Mode.CHANGED or _changes(trial.case))


class Stage:
    """The folders and processes of one trial."""

    def __init__(self, root: Path, *, limit_s: float) -> None:
        self._limit_s = limit_s
        self.root = root.resolve() / "trial"
        self._kept = root / "kept"
        self.folder = self.root / "deep" / "products"
        self.scratch = self.root / "scratch"
        self.home = self.root / "home"
        for folder in (self.folder, self.scratch, self.home, self.root / "outside"):
            folder.mkdir(parents=True)

    def keep(self) -> None:
        """Save a copy of the files on disk."""
        shutil.copytree(self.root, self._kept, symlinks=True)

    def restore(self) -> None:
        """Restore the saved copy."""
        shutil.rmtree(self.root)
        shutil.copytree(self._kept, self.root, symlinks=True)

    @property
    def crashed(self) -> bool:
        text = (self.scratch / "output").read_bytes()
        return b"internal error" in text or b"Traceback (most recent call last)" in text

    async def do(self, command: list[str], *, kill_after: asyncio.Event | None = None) -> int | None:
        """Run a command; return its exit code, or None at the time limit or after a kill."""
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        with (self.scratch / "output").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**kept, "HOME": str(self.home), "LANG": "C.UTF-8"},
            )
        try:
            async with asyncio.timeout(self._limit_s):
                if kill_after is not None:
                    await _first(process.wait(), _settled(kill_after))
                else:
                    return await process.wait()
        except TimeoutError:
            pass
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return None

    def product(self, tool: Tool, name: str | None) -> tuple[bytes | None, str]:
        """Return the bytes at the final name, and a problem with other files."""
        mine = {self.folder, self.scratch, self.home}
        for path in self.root.rglob("*"):
            if path.is_file() and not mine & set(path.parents):
                return None, f"a file outside its folder: {path.relative_to(self.root)}"
        if name is not None:
            path = self.folder / name
            return (path.read_bytes() if path.is_file() else None), ""
        paths = [p for p in sorted(self.folder.rglob("*")) if p.is_file() and ".bulkdl" not in p.parts]
        products = [p for p in paths if not p.name.endswith(tool.unfinished or ("\0",))]
        return (products[0].read_bytes() if products else None), ""


async def _settled(event: asyncio.Event) -> None:
    await event.wait()
    await asyncio.sleep(SETTLE_S)


async def _first(*coroutines: object) -> None:
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
