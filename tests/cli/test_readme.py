"""The README documents every command, flag and exit code."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from bulkdl.cli.parser import build_parser

README = Path(__file__).parents[2] / "README.md"


def commands() -> dict[str, argparse.ArgumentParser]:
    return next(a.choices for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))


def flags() -> list[str]:
    """Return the long flags of all commands."""
    actions = [action for parser in commands().values() for action in parser._actions]
    return sorted({flag for a in actions for flag in a.option_strings if flag.startswith("--")} - {"--help"})


@pytest.mark.parametrize("name", commands())
def test_every_command_is_in_the_readme(name):
    assert f"bulkdl {name}" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("flag", [*flags(), "--version"])
def test_every_flag_is_in_the_readme(flag):
    assert re.search(rf"{re.escape(flag)}(?![\w-])", README.read_text(encoding="utf-8"))


@pytest.mark.parametrize("code", ["0", "1", "2", "3", "4", "5", "130", "143"])
def test_every_exit_code_is_in_the_readme(code):
    assert re.search(rf"^\|[^|]*\b{code}\b[^|]*\|", README.read_text(encoding="utf-8"), re.MULTILINE)
