"""`bulkdl completion`: print the completion script of a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkdl.cli.output import write_out
from bulkdl.cli.parser import build_parser

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from bulkdl.cli.dispatch import Invocation


__all__ = ["completion"]


def completion(invocation: Invocation) -> int:
    """Print the completion script, generated from the same argparse tree as the help."""
    import shtab  # noqa: PLC0415 - only this command needs it

    kinds = {"FILE": shtab.FILE, "MANIFEST": shtab.FILE, "DIR": shtab.DIRECTORY}
    parser = build_parser()
    for action in _actions(parser):
        if isinstance(action.metavar, str) and action.metavar in kinds:
            action.complete = kinds[action.metavar]  # type: ignore[attr-defined] # shtab reads it
    write_out(shtab.complete(parser, shell=invocation.arguments.shell) + "\n")
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to walk a tree; shtab does the same
        if isinstance(action.choices, dict):
            for sub in action.choices.values():
                yield from _actions(sub)
        else:
            yield action
