"""Build the command line as an argparse tree from the table of settings; import nothing heavy.

argparse starts about 60 ms faster than its alternatives, and `--version` must be quick.
"""

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
  1        the run finished, but some products failed (each is listed with its reason)
  2        the command line or the manifest is wrong
  3        an account cannot log in; its products stay pending
  4        local problem: disk full, destination not writable, or in use by another run
  5        stopped by its deadline or window; unfinished products stay pending
  130/143  interrupted by Ctrl-C / SIGTERM; progress is saved, run again to resume
"""

_DESCRIPTION = """\
Unattended bulk downloads of protected products: one manifest, one command, every file verified.
Run the same command again to download only what is missing."""

_EXAMPLES = """\
getting started:
  bulkdl demo                       see it work; nothing to configure
  bulkdl check products.yaml        validate the manifest and print the plan
  bulkdl login products.yaml        test the credentials
  bulkdl run products.yaml          download all products; run it again to resume

`bulkdl COMMAND --help` shows the flags of a command. Most flags also have an environment variable, shown in
[brackets]. A flag overrides the variable, and the variable overrides the manifest.

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command: its help text and the options of the table that it accepts."""

    name: str
    summary: str
    """One line for the list of commands."""
    more: str = ""
    """Further lines below the summary in the command's own help."""
    examples: tuple[str, ...] = ()
    manifest: bool = True
    options: tuple[str, ...] = ()


_OUTPUT = ("json", "quiet", "verbose")

COMMANDS: tuple[Command, ...] = (
    Command(
        name="run",
        summary="download every product to the destination folder",
        more="Ctrl-C stops the run and saves its progress; run the same command to resume.",
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
        summary="validate the manifest and print the plan; uses the network only with --remote",
        examples=("bulkdl check products.yaml", "bulkdl check products.yaml --remote"),
        options=("destination", "select", "overwrite", "trust_existing", "timeout", "ca_file", *_OUTPUT),
    ),
    Command(
        name="status",
        summary="list what is done, partial or failed, and why; works during a run too",
        examples=("bulkdl status products.yaml", "bulkdl status products.yaml --json"),
        options=("destination", *_OUTPUT),
    ),
    Command(
        name="verify",
        summary="read the downloaded files and compare them with their checksums",
        more="Exit code 1 if a product is missing or wrong.",
        examples=("bulkdl verify products.yaml", "bulkdl verify products.yaml --requeue"),
        options=("destination", *_OUTPUT),
    ),
    Command(
        name="login",
        summary="test the credentials and show token lifetimes",
        more="Prints where each secret was found, never the secret. Exit code 3 if an account cannot log in.",
        examples=("bulkdl login products.yaml", "bulkdl login products.yaml creodias --rehearse"),
        options=("destination", "timeout", "ca_file", *_OUTPUT),
    ),
    Command(
        name="report",
        summary="write a report of done and failed products as one HTML file",
        examples=("bulkdl report products.yaml -o report.html",),
        options=("destination", "quiet", "verbose"),
    ),
    Command(
        name="manifest",
        summary="make a manifest from an existing list of products",
        more="Formats: urls, csv, aria2, metalink, stac, odata, sha256sums.\nWithout -o the manifest goes to standard output.",
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
        summary="list the presets for known archives, or show what one sets",
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
        summary="a real run against an archive inside this program; nothing to configure",
        more="The archive has logins with TOTP, short-lived tokens, faults and two outages. It listens on loopback only.",
        examples=("bulkdl demo", "bulkdl demo -d demo-products --progress plain"),
        manifest=False,
        options=("destination", "workers", "segments", "progress", "report", "log_file", *_OUTPUT),
    ),
    Command(
        name="completion",
        summary="print the completion script of a shell",
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
    """Build the tree; an option that is not given is None, so that its variable or the manifest applies.

    If `only` names a command, build only that command: a command line that starts with it needs no other.
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
            "manifest", metavar="MANIFEST", help="YAML manifest, or a list of URLs (one per line); - for standard input"
        )
    match command.name:
        case "check":
            parser.add_argument(
                "--remote",
                action="store_true",
                help="also log in and check each product at its archive; downloads nothing",
            )
        case "verify":
            parser.add_argument(
                "--requeue", action="store_true", help="mark wrong files so that `bulkdl run` downloads them again"
            )
        case "login":
            parser.add_argument("account", metavar="ACCOUNT", nargs="?", help="only this account (default: all)")
            parser.add_argument(
                "--rehearse",
                action="store_true",
                help="also test a token refresh and a second login with the next one-time code (up to 30 s)",
            )
            parser.add_argument(
                "--hours", metavar="N", help="length of a run in hours, to estimate its number of logins (default: 10)"
            )
        case "report":
            parser.add_argument("-o", "--output", metavar="FILE", required=True, help="HTML file to write")
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
    from bulkdl.formats import FORMATS  # noqa: PLC0415 - only this command needs it

    parser.add_argument("format", metavar="FORMAT", choices=tuple(FORMATS), help=", ".join(FORMATS))
    parser.add_argument("source", metavar="SOURCE", help="a local file with the list; - for standard input")
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="-", help="manifest file to write (default: standard output)"
    )
    parser.add_argument("--base-url", metavar="URL", help="URL to which names and relative links in the list refer")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    parser.add_argument(
        "--max",
        metavar="N",
        help="take only the first N products; then a list that is one page of a result is no problem",
    )


def _add_options(parser: argparse.ArgumentParser, options: Iterable[Option], *, demo: bool) -> None:
    for option in options:
        text = option.help
        if demo and option.name == "destination":
            text = "keep the demo's products in this folder (default: a temporary folder)"
        # Variables set for real runs must not change the demo, so it reads only those of the display.
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
