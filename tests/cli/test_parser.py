"""The argparse tree of the command line."""

from __future__ import annotations

import argparse

import pytest

from bulkdl.cli.dispatch import Invocation
from bulkdl.cli.parser import COMMANDS, build_parser
from bulkdl.core.errors import UsageError
from bulkdl.manifest.settings import RUN_OPTIONS, SETTINGS

RUN_FLAGS = {
    "-d",
    "--destination",
    "-j",
    "--workers",
    "-s",
    "--segments",
    "--limit-rate",
    "--retries",
    "--timeout",
    "--min-rate",
    "--max-wait",
    "--window",
    "--until",
    "--ca-file",
    "--select",
    "--overwrite",
    "--trust-existing",
    "--wait-for-space",
    "--dry-run",
    "--progress",
    "--json",
    "--report",
    "--log-file",
    "-q",
    "-v",
}


def invocation(*words: str, **environ: str) -> Invocation:
    return Invocation(build_parser().parse_args(words), environ)


def subparsers() -> dict[str, argparse.ArgumentParser]:
    parser = build_parser()
    return next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def test_run_has_every_flag_that_scripts_rely_on():
    flags = {flag for action in subparsers()["run"]._actions for flag in action.option_strings}
    assert flags >= RUN_FLAGS


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.manifest], ids=lambda c: c.name)
def test_every_command_with_a_manifest_takes_a_destination(command):
    parsed = build_parser().parse_args([command.name, "m.yaml", "-d", "x", *(["-o", "f"] * (command.name == "report"))])
    assert parsed.destination == "x"


def test_the_help_of_run_names_the_variable_of_every_option():
    text = subparsers()["run"].format_help()
    missing = [option.variable for option in (*SETTINGS, *RUN_OPTIONS) if option.variable not in text]
    assert missing == []


@pytest.mark.parametrize("name", [c.name for c in COMMANDS])
def test_every_command_has_a_summary_and_an_example(name):
    text = subparsers()[name].format_help()
    assert "examples:" in text
    assert f"bulkdl {name}" in text.split("examples:")[1]


@pytest.mark.parametrize("code", ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "130/143"])
def test_the_help_names_every_exit_code(code):
    assert f"\n  {code}" in build_parser().format_help()


@pytest.mark.parametrize(
    "words", [("run", "m.yaml", "--work", "3"), ("run",), ("nope",), ("run", "m.yaml", "--nope"), ("--vers",)]
)
def test_a_wrong_command_line_ends_with_2_and_abbreviations_are_wrong(words, capsys):
    with pytest.raises(SystemExit) as end:
        build_parser().parse_args(words)
    assert end.value.code == 2
    assert "usage: bulkdl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "environ", "name", "value"),
    [
        (("run", "m"), {}, "overwrite", False),
        (("run", "m", "--overwrite"), {}, "overwrite", True),
        (("run", "m"), {"BULKDL_OVERWRITE": "1"}, "overwrite", True),
        (("run", "m"), {"BULKDL_OVERWRITE": "no"}, "overwrite", False),
        (("run", "m", "--overwrite"), {"BULKDL_OVERWRITE": "0"}, "overwrite", True),
        (("run", "m"), {"BULKDL_WAIT_FOR_SPACE": "yes"}, "wait_for_space", True),
        (("run", "m", "-j", "3"), {"BULKDL_WORKERS": "5"}, "workers", 3),
        (("run", "m"), {"BULKDL_WORKERS": "5"}, "workers", 5),
        (("run", "m", "--select", "a*", "--select", "b*"), {"BULKDL_SELECT": "c*"}, "select", ("a*", "b*")),
        (("run", "m"), {"BULKDL_PROGRESS": "json"}, "progress", "json"),
    ],
)
def test_a_flag_beats_its_variable_and_the_variable_the_default(words, environ, name, value):
    assert invocation(*words, **environ).option(name) == value


@pytest.mark.parametrize(
    ("words", "environ", "verbosity"),
    [
        ((), {}, 0),
        (("-q",), {}, -1),
        (("-v",), {}, 1),
        (("-vv",), {}, 2),
        ((), {"BULKDL_VERBOSE": "2"}, 2),
        ((), {"BULKDL_QUIET": "1"}, -1),
        (("-v",), {"BULKDL_QUIET": "1"}, 1),
        (("-q",), {"BULKDL_VERBOSE": "2"}, -1),
    ],
)
def test_quiet_and_verbose_become_one_number(words, environ, verbosity):
    assert invocation("run", "m.yaml", *words, **environ).verbosity == verbosity


@pytest.mark.parametrize(
    ("words", "environ", "named"),
    [(("-j", "many"), {}, "--workers"), ((), {"BULKDL_WORKERS": "many"}, "BULKDL_WORKERS")],
)
def test_a_wrong_value_names_the_flag_or_the_variable(words, environ, named):
    with pytest.raises(UsageError, match=rf"^{named}: expected .* found \"many\""):
        invocation("run", "m.yaml", *words, **environ).option("workers")
