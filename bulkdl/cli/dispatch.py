"""From a parsed command line to the command; each one's module is imported only when it is run."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bulkdl.cli.output import say
from bulkdl.cli.text import clean
from bulkdl.core.errors import UsageError
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.manifest.settings import by_name, resolve, resolve_run_options, value_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from bulkdl.core.models import Manifest, RunOptions, Settings

__all__ = ["Invocation", "run_command"]


def run_command(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Do what the command line says; return its exit code, or raise what `main` explains."""
    name: str = arguments.command
    module = import_module(f"bulkdl.cli.commands.{name}")
    command: Callable[[Invocation], int] = getattr(module, name)
    return command(Invocation(arguments, environ))


@dataclass(frozen=True, slots=True)
class Invocation:
    """One command line with the environment it was given in."""

    arguments: argparse.Namespace
    environ: Mapping[str, str]

    @property
    def flags(self) -> dict[str, Any]:
        return vars(self.arguments)

    def option(self, name: str) -> Any:
        """What an option is in the end; raise `UsageError` when its text is wrong."""
        return value_of(by_name(name), flags=self.flags, environ=self.environ)

    @property
    def json(self) -> bool:
        return bool(self.option("json"))

    @property
    def verbosity(self) -> int:
        """-1 for `-q`, else the number of `-v`; a flag beats a variable of the other."""
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
        """Read the manifest that the command names, with the destination of `-d` or its variable."""
        from bulkdl.manifest.loader import load  # noqa: PLC0415 - YAML only where a manifest is

        destination: Path | None = self.option("destination")
        path: str = self.arguments.manifest
        stdin = getattr(sys.stdin, "buffer", None)
        if path == "-" and stdin is None:
            raise UsageError("the manifest is - and there is no standard input")
        return load(path, stdin=stdin, destination=destination, environ=self.environ)

    def warn(self, manifest: Manifest) -> None:
        """Say the manifest's warnings, unless the person wants quiet."""
        if self.verbosity >= 0:
            for warning in manifest.warnings:
                say(f"warning: {clean(warning)}")
