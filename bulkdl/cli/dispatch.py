"""Run the command that the parsed command line names.

Every command has one module in `cli/commands/`, which is imported only when the command runs. Modules import what
they need and no more, so that `--help`, `check` and `status` start fast; `tests/cli/test_start.py` lists what each
command may import.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

from bulkdl.cli.output import say
from bulkdl.cli.text import clean
from bulkdl.core.errors import ManifestError, Problem, UsageError
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.filenames import cannot_be_stored
from bulkdl.manifest.settings import by_name, resolve, resolve_run_options, value_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bulkdl.core.models import Manifest, RunOptions, Settings

__all__ = ["Invocation", "run_command"]

_START_BYTES = 64 * 1024
"""Bytes of a wrong manifest that are enough to recognize another kind of list."""


def run_command(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Run the command; return its exit code, or raise an error that `main.explain` reports."""
    name: str = arguments.command
    module = import_module(f"bulkdl.cli.commands.{name}")
    command: Callable[[Invocation], int] = getattr(module, name)
    return command(Invocation(arguments, environ))


@dataclass(frozen=True, slots=True)
class Invocation:
    """A parsed command line and its environment variables."""

    arguments: argparse.Namespace
    environ: Mapping[str, str]

    @property
    def flags(self) -> dict[str, Any]:
        return vars(self.arguments)

    def option(self, name: str) -> Any:
        """Return the value of an option (flag, else variable, else default); raise `UsageError` for a wrong value."""
        return value_of(by_name(name), flags=self.flags, environ=self.environ)

    @property
    def words(self) -> tuple[str, ...]:
        """Return the command line as it was typed, beginning with the program."""
        from bulkdl.cli.next_step import program  # noqa: PLC0415 - only a run prints its own command

        return (*program(), *self.arguments.words)

    @property
    def json(self) -> bool:
        return bool(self.option("json"))

    @property
    def verbosity(self) -> int:
        """Return -1 for `-q`, else the number of `-v`; either flag overrides the variable of the other."""
        if self.flags.get("quiet"):
            return -1
        if self.flags.get("verbose"):
            return int(self.flags["verbose"])
        return -1 if self.option("quiet") else int(self.option("verbose"))

    def settings(self, manifest: Manifest) -> Settings:
        return resolve(flags=self.flags, environ=self.environ, manifest=manifest.settings)

    def options(self) -> RunOptions:
        return resolve_run_options(flags=self.flags, environ=self.environ)

    def load_manifest(self) -> Manifest:
        """Load the manifest named on the command line; `-d` or its variable overrides the destination."""
        from bulkdl.manifest.loader import load  # noqa: PLC0415 - only commands with a manifest need YAML

        destination: Path | None = self.option("destination")
        path: str = self.arguments.manifest
        stdin = getattr(sys.stdin, "buffer", None)
        if path == "-" and stdin is None:
            raise UsageError("the manifest is -, but there is no standard input")
        copy = _Copy(stdin) if path == "-" and stdin is not None else None
        try:
            manifest = load(path, stdin=copy, destination=destination, environ=self.environ)
        except ManifestError as error:
            raise _recognized(error, copy) from None
        if lacking := cannot_be_stored(str(manifest.destination)):
            raise UsageError(
                f"the destination {clean(manifest.destination_shown)} cannot be used: {lacking}",
                hint="Run with LC_ALL=C.UTF-8 or PYTHONUTF8=1, or choose another destination with -d",
            )
        return manifest

    def warn(self, manifest: Manifest) -> None:
        """Print the manifest's warnings, unless `-q` is given."""
        if self.verbosity >= 0:
            for warning in manifest.warnings:
                say(f"warning: {clean(warning)}")


class _Copy:
    """Standard input, with a copy of its beginning."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.start = b""

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        if len(self.start) < _START_BYTES:
            self.start += data[:_START_BYTES]
        return data


def _recognized(error: ManifestError, copy: _Copy | None) -> ManifestError:
    """Return one problem in place of many if the file is a list that `bulkdl manifest` converts; else `error`."""
    from bulkdl.formats.recognize import advice  # noqa: PLC0415 - only for a manifest that is wrong

    try:
        if copy is not None:
            start = copy.start
        else:
            with open(error.path, "rb") as file:  # noqa: PTH123 - pathlib is not needed otherwise
                start = file.read(_START_BYTES)
    except (OSError, ValueError):
        return error
    found = advice(error.path, start)
    return error if found is None else ManifestError(error.path, (Problem(0, 0, found),))
