"""bulkdl and its peers: the installed ones, their versions, and the fastest command line of each for a job."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .process import Command, Exit, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["BULKDL", "Job", "Tool", "bulkdl", "bulkdl_command", "bulkdl_problem", "peers", "write_manifest"]

BULKDL = "bulkdl"
_REPOSITORY = Path(__file__).resolve().parent.parent
_PYTHON_PEER = Path(__file__).with_name("python_peer.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Files to download to `folder`, the same for every tool."""

    base_url: str
    names: Sequence[str]
    size: int
    """Size of each file (bytes)."""
    folder: Path
    work: Path
    """Folder for a tool's list of files."""
    ca_file: Path | None
    streams: int
    """Number of parallel downloads."""
    per_file: int = 1
    """Limit of connections to one file, for tools that need the option."""
    algorithm: str | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    """Checksum of each name, hexadecimal."""

    def urls(self) -> list[tuple[str, str]]:
        """Return each file's URL and name."""
        return [(f"{self.base_url}/{name}", name) for name in self.names]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A download program."""

    name: str
    version: str
    command: Callable[[Job], Command]
    """Write the tool's list of files, and return its command."""
    problem: Callable[[Exit, Job], str | None]
    """Describe why the process failed; None if it succeeded. The files are compared separately."""
    segments: bool = False
    """The tool can download one file over several connections."""
    algorithms: frozenset[str] = frozenset()
    """Checksums that the tool itself verifies."""
    slow: bool = False
    """The tool takes part in one round only, so that the run ends in time."""
    bare: bool = False
    """The tool shows the cost of the HTTP library alone."""


def bulkdl_command(*args: str) -> Command:
    """Return the command of the program beside this folder, run by this interpreter."""
    return Command(
        [sys.executable, "-m", "bulkdl", *args], {"PYTHONPATH": str(_REPOSITORY), "BENCH_TOKEN": "benchmark"}
    )


def bulkdl_problem(done: Exit) -> str | None:
    """Return the failure that a run of bulkdl reports with `--json`."""
    try:
        summary = json.loads(done.out)
    except ValueError:
        return f"exit {done.code} without a summary: {tail(done.err)}"
    if done.code or summary["exit_code"]:
        reasons = [failure["reason"] for failure in summary["failures"][:1]]
        return f"exit {done.code}: {summary['products']} {reasons or tail(done.err)}"
    return None


def write_manifest(path: Path, job: Job) -> None:
    """Return a typical manifest: an account, and each product's name, size and checksum, if it has one."""
    host = job.base_url.split("/")[2]
    lines = ["version: 1", f"destination: {job.folder}", "accounts:", "  bench:", "    auth: bearer"]
    lines += ["    token: ${BENCH_TOKEN}", f'    hosts: ["{host}"]', "defaults: {account: bench}", "products:"]
    for url, name in job.urls():
        lines += [f"  - url: {url}", f"    file: {name}", f"    size: {job.size}"]
        if job.algorithm:
            lines.append(f"    checksum: {job.algorithm}:{job.checksums[name]}")
    path.write_text("\n".join(lines) + "\n")


def bulkdl() -> Tool:
    """Return bulkdl with its journal, an account and verification, as users run it."""

    def command(job: Job) -> Command:
        manifest = job.work / "manifest.yaml"
        write_manifest(manifest, job)
        trust = ["--ca-file", str(job.ca_file)] if job.ca_file else []
        workers = ["-j", str(job.streams)] if job.streams != 8 else []  # 8 is the default
        return bulkdl_command("run", str(manifest), "--progress", "none", "--json", *workers, *trust)

    version = _output(bulkdl_command("--version")) or "bulkdl, version unknown"
    return Tool(
        name=BULKDL,
        version=version,
        command=command,
        problem=lambda done, _: bulkdl_problem(done),
        segments=True,
        algorithms=frozenset({"md5", "sha256", "blake3"}),
    )


def peers(*, python: str | None = None) -> list[Tool]:
    """Return the installed peers; `python` is an interpreter that may have parfive or pypdl."""
    found = [_peer(name) for name in _COMMANDS]
    libraries = [_library(python, name) for name in ("parfive", "pypdl")] if python else []
    bare = _library(sys.executable, "aiohttp", bare=True)
    return [tool for tool in (*found, *libraries, bare) if tool is not None]


def _peer(name: str) -> Tool | None:
    program = shutil.which(name)
    if program is None:
        return None
    text = _output(Command([program, "version" if name == "rclone" else "--version"]))
    return Tool(
        name=name,
        version=text or f"{name}, version unknown",
        command=_COMMANDS[name],
        problem=_by_exit_code,
        segments=name in {"aria2c", "rclone"},  # wget2 downloads the chunks of a file one after the other
        algorithms=frozenset({"md5", "sha256"}) if name == "aria2c" else frozenset(),
    )


def _by_exit_code(done: Exit, _: Job) -> str | None:
    return f"exit {done.code}: {tail(done.err) or tail(done.out)}" if done.code else None


def _curl(job: Job) -> Command:
    config = job.work / "curl.txt"
    config.write_text("".join(f'url = "{url}"\noutput = "{job.folder}/{name}"\n' for url, name in job.urls()))
    trust = ["--cacert", str(job.ca_file)] if job.ca_file else []
    flags = ["--parallel-immediate", "--parallel-max", str(job.streams), "--no-progress-meter", "--fail"]
    return Command(["curl", "-q", "-Z", *flags, *trust, "--config", str(config)])


def _wget2(job: Job) -> Command:
    urls = job.work / "wget2.txt"
    urls.write_text("".join(f"{url}\n" for url, _ in job.urls()))
    trust = ["--ca-certificate", str(job.ca_file), "--no-ocsp", "--no-hsts"] if job.ca_file else []
    flags = ["--no-config", "-q", "--no-robots", "--no-netrc", "--tries=1", f"--max-threads={job.streams}"]
    return Command(["wget2", *flags, *trust, "-P", str(job.folder), "-i", str(urls)])


def _aria2c(job: Job) -> Command:
    urls = job.work / "aria2c.txt"
    with urls.open("w") as out:
        for url, name in job.urls():
            out.write(f"{url}\n  out={name}\n")
            if job.algorithm:
                out.write(f"  checksum={_ARIA2_ALGORITHMS[job.algorithm]}={job.checksums[name]}\n")
    trust = ["--ca-certificate", str(job.ca_file)] if job.ca_file else []
    many = str(job.per_file)
    flags = [
        "--no-conf",
        "--quiet",
        "--file-allocation=none",
        "--no-netrc",
        "--max-tries=1",
        "-k1M",
        f"-j{job.streams}",
    ]
    flags += ["--disable-ipv6", "--async-dns=false", "--summary-interval=0", f"-x{many}", f"-s{many}"]
    return Command(["aria2c", *flags, *trust, "-d", str(job.folder), "-i", str(urls)])


def _rclone(job: Job) -> Command:
    names = job.work / "rclone.txt"
    names.write_text("".join(f"{name}\n" for name in job.names))
    trust = ["--ca-cert", str(job.ca_file)] if job.ca_file else []
    many = str(job.per_file if job.per_file > 1 else 0)
    flags = ["--config", "/dev/null", "--transfers", str(job.streams), "--checkers", str(job.streams), "--no-traverse"]
    flags += ["--multi-thread-streams", many, "--multi-thread-cutoff", "16M", "--retries", "1", "--stats", "0"]
    source = ["--http-url", f"{job.base_url}/", "--files-from-raw", str(names), ":http:"]
    return Command(["rclone", "copy", "-q", *flags, *trust, *source, str(job.folder)])


_COMMANDS: Mapping[str, Callable[[Job], Command]] = {
    "curl": _curl,
    "wget2": _wget2,
    "aria2c": _aria2c,
    "rclone": _rclone,
}
_ARIA2_ALGORITHMS = {"md5": "md5", "sha256": "sha-256"}


def _library(python: str, name: str, *, bare: bool = False) -> Tool | None:
    """Return a Python library as a contestant, used as in its documentation, in an interpreter that has it."""
    probe = f"import {name}; from importlib.metadata import version; print('{name}', version('{name}'))"
    version = _output(Command([python, "-c", probe]))
    if version is None:
        return None

    def command(job: Job) -> Command:
        urls = job.work / f"{name}.txt"
        urls.write_text("".join(f"{url}\n" for url, _ in job.urls()))
        env = {"SSL_CERT_FILE": str(job.ca_file)} if job.ca_file else {}
        script = [python, str(_PYTHON_PEER), name, str(urls), str(job.folder)]
        return Command([*script, str(job.streams), str(job.per_file)], env)

    return Tool(
        name=name,
        version=version,
        command=command,
        problem=_by_exit_code,
        segments=not bare,
        slow=not bare,
        bare=bare,
    )


def _output(command: Command) -> str | None:
    """Return the first line with a digit that a command prints; None if it fails."""
    try:
        done = subprocess.run(
            command.argv,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", **command.env},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = [line.strip() for line in done.stdout.splitlines() if re.search(r"\d", line)]
    return re.split(r" \(| - ", lines[0])[0] if lines and done.returncode == 0 else None
