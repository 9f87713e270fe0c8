"""The command line as an argparse tree, made from the settings table; imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bulkdl._version import __version__
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.manifest.settings import RUN_OPTIONS, SETTINGS, Kind, Option, by_name

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["COMMANDS", "Command", "build_parser"]

EXIT_CODES = """\
exit codes:
  0        every product is in place and verified
  1        the run finished, and some products failed (each is named with its reason)
  2        the command line or the manifest is wrong
  3        an account cannot log in; its products are left as they were
  4        this machine is in the way: disk full, not writable, another run holds the destination
  5        stopped by its own deadline or window with work left
  130/143  interrupted by Ctrl-C / SIGTERM; the state is saved, run again to go on
"""

_DESCRIPTION = """\
Unattended bulk downloads of protected products: one manifest, one command, every file verified.
Running a command again does only what is left."""

_EXAMPLES = """\
to begin:
  bulkdl demo                       see it work, with nothing to configure
  bulkdl check products.yaml        what is in the manifest, and whether it will work
  bulkdl login products.yaml        try the accounts
  bulkdl run products.yaml          bring every product here; run it again to go on

`bulkdl COMMAND --help` shows the flags of a command. Most have a variable too, shown in [brackets].
A flag beats the variable, the variable beats the manifest.

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command: what it says of itself and which options of the table it takes."""

    name: str
    summary: str
    """One line, for the list of commands."""
    more: str = ""
    """What else a newcomer needs, below the summary."""
    examples: tuple[str, ...] = ()
    manifest: bool = True
    options: tuple[str, ...] = ()


_OUTPUT = ("json", "quiet", "verbose")

COMMANDS: tuple[Command, ...] = (
    Command(
        name="run",
        summary="bring every product to the destination",
        more="Ctrl-C stops it with everything saved; the same command goes on from there.",
        examples=(
            "bulkdl run products.yaml",
            "bulkdl run products.yaml -d /data/s2 --limit-rate 40M --until 06:30",
            "bulkdl run products.yaml --select '*T31UFS*' --dry-run",
            "bulkdl run urls.txt -d downloads",
            "some-search | bulkdl run - -d downloads",
        ),
        options=tuple(o.name for o in (*SETTINGS, *RUN_OPTIONS)),
    ),
    Command(
        name="check",
        summary="validate the manifest and print the plan; no network unless --remote",
        examples=("bulkdl check products.yaml", "bulkdl check products.yaml --remote"),
        options=("destination", "select", "overwrite", "trust_existing", "timeout", "ca_file", *_OUTPUT),
    ),
    Command(
        name="status",
        summary="what is done, partial or failed, and why; also while a run is going on",
        examples=("bulkdl status products.yaml", "bulkdl status products.yaml --json"),
        options=("destination", *_OUTPUT),
    ),
    Command(
        name="verify",
        summary="read the files on disk again and compare them with their checksums",
        more="Exit code 1 when a product is missing or wrong.",
        examples=("bulkdl verify products.yaml", "bulkdl verify products.yaml --requeue"),
        options=("destination", *_OUTPUT),
    ),
    Command(
        name="login",
        summary="try the credentials and print how long what they bring will last",
        more="Prints where each secret was found, never the secret. Exit code 3 when an account cannot log in.",
        examples=("bulkdl login products.yaml", "bulkdl login products.yaml creodias --rehearse"),
        options=("destination", "timeout", "ca_file", *_OUTPUT),
    ),
    Command(
        name="report",
        summary="write what is done and what failed as one HTML file",
        examples=("bulkdl report products.yaml -o report.html",),
        options=("destination", "quiet", "verbose"),
    ),
    Command(
        name="manifest",
        summary="make a manifest from a list that you have already",
        more="Formats: urls, csv, aria2, metalink, stac, odata, sha256sums. The manifest goes to standard output unless -o is given.",
        examples=(
            "bulkdl manifest metalink products.meta4 -o products.yaml",
            "bulkdl manifest sha256sums SHA256SUMS --base-url https://archive.example.org/data/ -o products.yaml",
            "some-search | bulkdl manifest odata - -o products.yaml",
        ),
        manifest=False,
        options=("quiet", "verbose"),
    ),
    Command(
        name="providers",
        summary="the presets for known archives, and what each sets",
        examples=("bulkdl providers", "bulkdl providers creodias"),
        manifest=False,
        options=("json", "verbose"),
    ),
    Command(
        name="schema",
        summary="print the JSON Schema of the manifest, for editors",
        examples=("bulkdl schema > bulkdl.schema.json",),
        manifest=False,
        options=("verbose",),
    ),
    Command(
        name="demo",
        summary="a real run against an archive inside this program, with nothing to configure",
        more="The archive has logins with TOTP, tokens of a few seconds and faults, and is reached on loopback only.",
        examples=("bulkdl demo", "bulkdl demo -d demo-products --progress plain"),
        manifest=False,
        options=("destination", "workers", "segments", "progress", "report", "log_file", *_OUTPUT),
    ),
    Command(
        name="completion",
        summary="print the completion script for a shell",
        examples=(
            'bash:  eval "$(bulkdl completion bash)"',
            "zsh:   bulkdl completion zsh > ~/.zfunc/_bulkdl",
            "tcsh:  bulkdl completion tcsh > ~/.bulkdl.csh; source ~/.bulkdl.csh",
        ),
        manifest=False,
        options=("verbose",),
    ),
)  # fmt: skip


def build_parser(*, only: str | None = None) -> argparse.ArgumentParser:
    """The tree; options that were not given are None, so that a variable or the manifest may speak.

    `only` a command's name: a tree with this command alone, for a command line that begins with it.
    """
    parser = argparse.ArgumentParser(
        prog="bulkdl",
        description=_DESCRIPTION,
        epilog=_EXAMPLES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bulkdl {__version__}", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in [c for c in COMMANDS if c.name == only] or COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.summary,
            description="\n".join(filter(None, (f"{command.summary[0].upper()}{command.summary[1:]}.", command.more))),
            epilog="\n".join(("examples:", *(f"  {example}" for example in command.examples))),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _fill(sub, command)
    return parser


def _fill(parser: argparse.ArgumentParser, command: Command) -> None:
    if command.manifest:
        parser.add_argument(
            "manifest", metavar="MANIFEST", help="YAML manifest, or a list of URLs, one a line; - for standard input"
        )
    match command.name:
        case "check":
            parser.add_argument(
                "--remote",
                action="store_true",
                help="also log in and ask the archives about each product; nothing is downloaded",
            )
        case "verify":
            parser.add_argument("--requeue", action="store_true", help="mark the bad ones to be fetched again by `run`")
        case "login":
            parser.add_argument("account", metavar="ACCOUNT", nargs="?", help="only this account (default: all)")
            parser.add_argument(
                "--rehearse",
                action="store_true",
                help="also force a refresh, and log in a second time with the next one-time code (half a minute)",
            )
            parser.add_argument(
                "--hours", metavar="N", help="how long the night is, for the number of logins (default: 10)"
            )
        case "report":
            parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the HTML file to write")
        case "manifest":
            _add_conversion(parser)
        case "providers":
            parser.add_argument("name", metavar="NAME", nargs="?", help="show what this preset sets")
        case "completion":
            parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh")
        case _:
            pass
    _add_options(parser, (by_name(name) for name in command.options), demo=command.name == "demo")


def _add_conversion(parser: argparse.ArgumentParser) -> None:
    from bulkdl.formats import FORMATS  # noqa: PLC0415 - nothing else needs it

    parser.add_argument("format", metavar="FORMAT", choices=tuple(FORMATS), help=", ".join(FORMATS))
    parser.add_argument("source", metavar="SOURCE", help="the list; - for standard input")
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-", help="the manifest to write (default: standard output)"
    )
    parser.add_argument("--base-url", metavar="URL", help="what names and relative links in the list are relative to")


def _add_options(parser: argparse.ArgumentParser, options: Iterable[Option], *, demo: bool) -> None:
    for option in options:
        text = option.help
        if demo and option.name == "destination":
            text = "keep the demo's products in this folder (default: a temporary one)"
        # The demo has nothing to do with the settings of real work, so only its looks follow the environment.
        if not demo or option.name in {"progress", "quiet", "verbose", "json"}:
            text += f" [{option.variable}]"
        _add(parser, option, text.replace("%", "%%"))


def _add(parser: argparse.ArgumentParser, option: Option, text: str) -> None:
    match option.kind:
        case Kind.SWITCH:
            parser.add_argument(
                *option.flags, dest=option.name, action="store_const", const=True, default=None, help=text
            )
        case Kind.COUNTED:
            parser.add_argument(*option.flags, dest=option.name, action="count", default=None, help=text)
        case Kind.REPEATED:
            parser.add_argument(
                *option.flags, dest=option.name, action="append", default=None, metavar=option.metavar, help=text
            )
        case Kind.VALUE:
            parser.add_argument(
                *option.flags,
                dest=option.name,
                default=None,
                metavar=option.metavar,
                choices=option.choices or None,
                help=text,
            )
