"""The download rows: every capable tool downloads the same files, and each file is compared byte by byte."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .figures import BEST, Kind, Limit, Measure
from .files import KIB, FileSet, compare
from .scene import Contestant, Row
from .servers import DELAY_S, THROTTLE, Place
from .tools import BULKDL, Job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .figures import Sample
    from .scene import Scale, Scene
    from .tools import Tool

__all__ = ["TRANSFERS", "contestants"]

_MANY = 32
"""Number of parallel downloads of every tool for small or late files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The files to download, and their place on the server."""

    files: Callable[[Scale], FileSet]
    scheme: str = "http"
    place: str = Place.PLAIN
    streams: int = 8
    per_file: int = 1
    algorithm: str | None = None
    bare: bool = False
    """Also measure the HTTP library alone."""


def contestants(scene: Scene, transfer: Transfer) -> list[Contestant]:
    """Return every capable tool; a row about checksums or segments leaves out tools without that feature."""
    files = transfer.files(scene.scale)
    secure = transfer.scheme == "https"
    if secure and scene.server.https_port is None:
        raise RuntimeError("openssl is not installed: no certificate for HTTPS")
    scene.files(files)
    job = Job(
        base_url=scene.server.url(transfer.scheme, transfer.place, files.name),
        names=files.names(),
        size=files.size,
        folder=scene.folder,
        work=scene.folder,
        ca_file=scene.server.ca_file if secure else None,
        streams=min(transfer.streams, files.count),
        per_file=transfer.per_file,
        algorithm=transfer.algorithm,
        checksums=scene.checksums(files, transfer.algorithm) if transfer.algorithm else {},
    )
    able = [
        tool
        for tool in scene.tools
        if (transfer.per_file == 1 or tool.segments)
        and (transfer.bare or not tool.bare)
        and (transfer.algorithm is None or transfer.algorithm in tool.algorithms or tool.name == "curl")
    ]
    return [_contestant(scene, tool, files, job) for tool in able]


def _contestant(scene: Scene, tool: Tool, files: FileSet, job: Job) -> Contestant:
    def attempt(folder: Path, round_: int) -> Sample:
        products = folder / "products"
        products.mkdir()
        command = tool.command(replace(job, folder=products, work=folder))
        done = scene.measure(command, folder)
        problem = None
        if done is not None:
            problem = tool.problem(done, job) or compare(files, scene.root, products)
        return scene.sample(tool.name, round_, command, done, problem)

    return Contestant(name=tool.name, attempt=attempt, slow=tool.slow)


def _large(scale: Scale) -> FileSet:
    return FileSet(name="large", count=8, size=scale.large)


def _small(scale: Scale) -> FileSet:
    return FileSet(name="small", count=scale.small_count, size=4 * KIB)


def _late(scale: Scale) -> FileSet:
    return FileSet(name="late", count=scale.late_count, size=64 * KIB)


def _single(scale: Scale) -> FileSet:
    return FileSet(name="single", count=1, size=scale.single)


def _limits(against: str, *, wall: float, cpu: float | None = None) -> tuple[Limit, ...]:
    most = ((Measure.WALL, wall), (Measure.CPU, cpu))
    return tuple(
        Limit(tool=BULKDL, measure=measure, kind=Kind.RATIO, most=value, against=against)
        for measure, value in most
        if value is not None
    )


def _row(
    name: str, title: str, transfer: Transfer, limits: tuple[Limit, ...], *, reference: str, note: str = ""
) -> Row:
    return Row(
        name=name,
        title=title,
        contestants=lambda scene: contestants(scene, transfer),
        limits=limits,
        reference=reference,
        note=note,
        room=lambda scale: 2 * transfer.files(scale).total,
    )


def _checked(algorithm: str, title: str) -> Row:
    known = algorithm in {"md5", "sha256"}
    note = "curl verifies nothing: it is here as the transfer alone."
    return _row(
        f"large-{algorithm}",
        f"8 large files over HTTP, each verified by {title}",
        Transfer(files=_large, algorithm=algorithm),
        _limits("aria2c", wall=0.7) if known else (),
        reference="aria2c" if known else "curl",
        note=note if known else f"No peer knows {title}. {note}",
    )


_SLOW_NOTE = (
    f"Each connection gets {THROTTLE >> 20} MiB/s. bulkdl is given no settings; the others 16 connections a file."
)
TRANSFERS: tuple[Row, ...] = (
    _row(
        "large-http",
        "8 large files over HTTP",
        Transfer(files=_large),
        _limits("curl", wall=0.6, cpu=1.0),
        reference="curl",
    ),
    _row(
        "large-https",
        "8 large files over HTTPS (TLS 1.3)",
        Transfer(files=_large, scheme="https"),
        _limits("curl", wall=1.0, cpu=1.15),
        reference="curl",
    ),
    _row(
        "small-http",
        "files of 4 KiB over HTTP",
        Transfer(files=_small, streams=_MANY),
        _limits("aria2c", wall=1.0, cpu=1.0),
        reference="aria2c",
        note=f"{_MANY} at a time.",
    ),
    _row(
        "small-https",
        "files of 4 KiB over HTTPS",
        Transfer(files=_small, scheme="https", streams=_MANY),
        _limits("aria2c", wall=1.0, cpu=1.0),
        reference="aria2c",
        note=f"{_MANY} at a time.",
    ),
    _row(
        "late",
        f"files of 64 KiB, {DELAY_S * 1000:.0f} ms to the first byte",
        Transfer(files=_late, place=Place.LATE, streams=_MANY, bare=True),
        _limits(BEST, wall=1.05),
        reference="curl",
        note=f"{_MANY} at a time. nginx sends the files; a small server that it asks first makes it wait. "
        "aiohttp is a loop of requests that verifies and records nothing.",
    ),
    _row(
        "slow-one",
        "one file, every connection throttled",
        Transfer(files=_single, place=Place.SLOW, per_file=16),
        _limits("aria2c", wall=1.05),
        reference="aria2c",
        note=_SLOW_NOTE,
    ),
    _row(
        "slow-eight",
        "8 such files",
        Transfer(files=_large, place=Place.SLOW, per_file=16),
        _limits("aria2c", wall=0.85),
        reference="aria2c",
        note=_SLOW_NOTE,
    ),
    _checked("md5", "MD5"),
    _checked("sha256", "SHA-256"),
    _checked("blake3", "BLAKE3"),
)
