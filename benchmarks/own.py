"""The rows about bulkdl itself: memory, start, rerun, large manifests."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .figures import Kind, Limit, Measure, Sample
from .files import GIB, KIB, MIB, FileSet
from .first import listening
from .process import Command
from .scene import Contestant, Row
from .servers import Place
from .tools import BULKDL, Job, bulkdl_command, bulkdl_problem, write_manifest
from .transfers import Transfer, contestants

if TYPE_CHECKING:
    from .scene import Scale, Scene
    from .tools import Tool

__all__ = ["OWN"]

_BARE = "python"
_REPOSITORY = str(Path(__file__).resolve().parent.parent)
_LOAD = """
import os, sys, time
from bulkdl.manifest.loader import load
started = time.perf_counter()
manifest = load(sys.argv[1], environ=os.environ)
print(time.perf_counter() - started, len(manifest.products))
"""


def _job(*, base_url: str, count: int, size: int, folder: Path, work: Path) -> Job:
    names = FileSet(name="", count=count, size=size).names()
    return Job(base_url=base_url, names=names, size=size, folder=folder, work=work, ca_file=None, streams=8)


def _only_bulkdl(scene: Scene, transfer: Transfer) -> list[Contestant]:
    ours = tuple(tool for tool in scene.tools if tool.name == BULKDL)
    return contestants(replace(scene, tools=ours), transfer)


# --- memory -----------------------------------------------------------------------------------------------------------


def _very_large(scene: Scene) -> list[Contestant]:
    """Use files as large as the disk space allows: they are sparse on the server, but the downloads are not."""
    size = scene.scale.sparse
    while size > 64 * MIB and 12 * size > scene.room():
        size //= 2
    files = FileSet(name=f"sparse-{size // MIB}M", count=8, size=size, sparse=True)
    return _only_bulkdl(scene, Transfer(files=lambda _: files))


def _many(scale: Scale) -> FileSet:
    return FileSet(name="many", count=scale.many_count, size=16)


# --- start ------------------------------------------------------------------------------------------------------------


def _plain(scene: Scene, name: str, command: Command) -> Contestant:
    """Return a contestant whose command only has to succeed."""

    def attempt(folder: Path, round_: int) -> Sample:
        done = scene.measure(command, folder)
        problem = f"exit {done.code}: {done.err[-200:]}" if done and done.code else None
        return scene.sample(name, round_, command, done, problem)

    return Contestant(name=name, attempt=attempt)


def _bare(scene: Scene) -> Contestant:
    return _plain(scene, _BARE, Command([sys.executable, "-c", "pass"]))


def _version(scene: Scene) -> list[Contestant]:
    others = [tool.name for tool in scene.tools if tool.name in {"curl", "wget2", "aria2c"}]
    peers = [_plain(scene, name, Command([name, "--version"])) for name in others]
    return [_bare(scene), _plain(scene, BULKDL, bulkdl_command("--version")), *peers]


def _check(scene: Scene) -> list[Contestant]:
    work = scene.folder / "check"
    work.mkdir(exist_ok=True)
    write_manifest(
        work / "manifest.yaml",
        _job(base_url="http://127.0.0.1:9/x", count=10, size=KIB, folder=work / "products", work=work),
    )
    return [_bare(scene), _plain(scene, BULKDL, bulkdl_command("check", str(work / "manifest.yaml")))]


def _first_request(scene: Scene) -> list[Contestant]:
    return [_requesting(scene, tool) for tool in scene.tools if not tool.slow]


def _requesting(scene: Scene, tool: Tool) -> Contestant:
    """Measure the time from the start of the process to the first bytes of its first request."""

    def attempt(folder: Path, round_: int) -> Sample:
        with listening() as server:
            url = f"http://127.0.0.1:{server.port}"
            job = _job(base_url=url, count=1, size=len(server.body), folder=folder / "products", work=folder)
            job.folder.mkdir()
            command = tool.command(job)
            done = scene.measure(command, folder)
            first = server.first
        problem = tool.problem(done, job) if done else None
        if problem is None and first is None:
            problem = "it made no request"
        sample = scene.sample(tool.name, round_, command, done, problem)
        return replace(
            sample,
            wall_s=first - done.started if first and done else 0.0,
            command=sample.command.replace(str(server.port), "PORT"),
        )

    return Contestant(name=tool.name, attempt=attempt)


# --- rerun ------------------------------------------------------------------------------------------------------------


def _rerun(scene: Scene, files: FileSet) -> list[Contestant]:
    scene.files(files)
    work = scene.folder / f"again-{files.count}"
    work.mkdir()
    manifest = work / "manifest.yaml"
    url = scene.server.url("http", Place.COUNTED, files.name)
    write_manifest(
        manifest, _job(base_url=url, count=files.count, size=files.size, folder=work / "products", work=work)
    )
    command = bulkdl_command("run", str(manifest), "--progress", "none", "--json")
    first = scene.measure(command, work)
    if first is None or (problem := bulkdl_problem(first)):
        raise RuntimeError(f"the first run did not finish: {problem if first else 'too slow'}")

    def attempt(folder: Path, round_: int) -> Sample:
        before = _settled(scene)
        done = scene.measure(command, folder)
        sample = scene.sample(BULKDL, round_, command, done, bulkdl_problem(done) if done else None)
        return replace(sample, requests=_settled(scene) - before)

    return [Contestant(name=BULKDL, attempt=attempt)]


def _settled(scene: Scene) -> int:
    """Count the requests in nginx's log, which nginx writes a moment after the answer."""
    time.sleep(0.05)
    return scene.server.requests()


# --- large manifests --------------------------------------------------------------------------------------------------


def _loading(scene: Scene, count: int) -> list[Contestant]:
    work = scene.folder / f"manifest-{count}"
    work.mkdir()
    manifest = work / "manifest.yaml"
    write_manifest(
        manifest, _job(base_url="http://127.0.0.1:9/x", count=count, size=KIB, folder=work / "products", work=work)
    )
    env = {"PYTHONPATH": _REPOSITORY, "BENCH_TOKEN": "benchmark"}
    command = Command([sys.executable, "-c", _LOAD, str(manifest)], env)
    shown = replace(command, argv=["python", "-c", "load(MANIFEST)"])

    def attempt(folder: Path, round_: int) -> Sample:
        done = scene.measure(command, folder)
        took, products = 0.0, 0.0
        with contextlib.suppress(ValueError):
            took, products = map(float, done.out.split()) if done else (0.0, 0.0)
        problem = None if int(products) == count or done is None else f"exit {done.code}: {done.err[-200:]}"
        return replace(scene.sample(BULKDL, round_, shown, done, problem), wall_s=took)

    return [Contestant(name=BULKDL, attempt=attempt)]


def _at_most(most: float, measure: Measure) -> Limit:
    return Limit(tool=BULKDL, measure=measure, kind=Kind.ALONE, most=most)


def _over_bare(most_s: float) -> Limit:
    return Limit(tool=BULKDL, measure=Measure.WALL, kind=Kind.DIFFERENCE, most=most_s, against=_BARE)


OWN: tuple[Row, ...] = (
    Row(
        name="start-version",
        title="`bulkdl --version`",
        contestants=_version,
        limits=(_over_bare(0.07),),
        reference=_BARE,
        note="`python` is the bare interpreter; the target is what is added to it.",
    ),
    Row(
        name="start-check",
        title="`bulkdl check` of 10 products",
        contestants=_check,
        limits=(_over_bare(0.2),),
        reference=_BARE,
        note="`python` is the bare interpreter; the target is what is added to it.",
    ),
    Row(
        name="start-request",
        title="from the start of `bulkdl run` to its first request",
        contestants=_first_request,
        limits=(_at_most(0.45, Measure.WALL),),
        reference=BULKDL,
        note="Wall is the time to the first request; CPU and memory are those of the whole process.",
    ),
    Row(
        name="rerun",
        title="`bulkdl run` again when every product is in place",
        contestants=lambda scene: _rerun(scene, FileSet(name="again", count=scene.scale.rerun_count, size=KIB)),
        limits=(_at_most(1.0, Measure.WALL), _at_most(0, Measure.REQUESTS)),
        reference=BULKDL,
        note="Requests are counted in nginx's log.",
    ),
    Row(
        name="manifest-small",
        title="reading and validating a manifest, a tenth of the largest",
        contestants=lambda scene: _loading(scene, scene.scale.manifests[0]),
        limits=(_at_most(1.0, Measure.WALL),),
        reference=BULKDL,
        note="Wall is the reading alone, without the interpreter's start; memory is the process's.",
    ),
    Row(
        name="manifest-large",
        title="reading and validating the largest manifest",
        contestants=lambda scene: _loading(scene, scene.scale.manifests[1]),
        limits=(_at_most(6.0, Measure.WALL), _at_most(300 * MIB, Measure.RSS)),
        reference=BULKDL,
        note="Wall is the reading alone, without the interpreter's start; memory is the process's.",
        rounds=3,
    ),
    Row(
        name="memory-products",
        title="peak memory of a run of many products",
        contestants=lambda scene: _only_bulkdl(scene, Transfer(files=_many)),
        limits=(_at_most(150 * MIB, Measure.RSS),),
        reference=BULKDL,
        rounds=1,
        room=lambda scale: 2 * 4 * KIB * scale.many_count,
    ),
    Row(
        name="memory-again",
        title="peak memory of `bulkdl run` again when as many products are in place",
        contestants=lambda scene: _rerun(scene, _many(scene.scale)),
        limits=(_at_most(150 * MIB, Measure.RSS), _at_most(0, Measure.REQUESTS)),
        reference=BULKDL,
        rounds=1,
        room=lambda scale: 2 * 4 * KIB * scale.many_count,
    ),
    Row(
        name="memory-bytes",
        title="peak memory of a run of 8 very large products",
        contestants=_very_large,
        limits=(_at_most(64 * MIB, Measure.RSS),),
        reference=BULKDL,
        note="Zeros on the server; the products take their whole size, so the room in memory bounds it.",
        rounds=1,
        room=lambda scale: min(8 * scale.sparse, 2 * GIB),
    ),
)
