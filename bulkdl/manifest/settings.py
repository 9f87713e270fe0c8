"""One table of all that a run can be told: flag, variable, manifest key, parser, help; and which of them wins.

A flag beats a variable, a variable beats the manifest, the manifest beats the default.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkdl.core import units
from bulkdl.core.errors import UsageError
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import RunOptions, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["RUN_OPTIONS", "SETTINGS", "Kind", "Option", "by_name", "resolve", "resolve_run_options", "value_of"]


class Kind(Enum):
    """How an option is given on the command line."""

    VALUE = "value"
    SWITCH = "switch"
    REPEATED = "repeated"
    COUNTED = "counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One thing a run can be told, and every way to say it."""

    name: str
    """The field of `Settings`, `RunOptions` or the command line's namespace."""
    flags: tuple[str, ...]
    """Long flag last."""
    help: str
    parse: Callable[[str], Any]
    """Text to value; raises `ValueError` that says what was expected."""
    default: Any = None
    metavar: str | None = None
    kind: Kind = Kind.VALUE
    choices: tuple[str, ...] = ()
    in_manifest: bool = False
    """Whether `name` is a key of the manifest's `settings`."""

    @property
    def flag(self) -> str:
        """The long flag."""
        return self.flags[-1]

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"BULKDL_{self.name.upper()}"


def _whole(text: str, *, least: int, most: int, also: str = "") -> int:
    stripped = text.strip()
    if stripped.isascii() and stripped.isdigit() and len(stripped) <= 9 and least <= int(stripped) <= most:
        return int(stripped)
    raise ValueError(f'expected {also}a whole number from {least} to {most}, found "{text[:40]}"')


def _workers(text: str) -> int:
    return _whole(text, least=1, most=256)


def _segments(text: str) -> int | None:
    return None if text.strip().lower() == "auto" else _whole(text, least=1, most=64, also="`auto` or ")


def _retries(text: str) -> int:
    return _whole(text, least=0, most=1_000_000)


def _timeout(text: str) -> float:
    seconds = units.parse_duration(text)
    if seconds <= 0:
        raise ValueError(f'expected a time-out of more than 0 seconds, found "{text[:40]}"')
    return seconds


def _or_none(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """`none` takes back what a manifest or a variable has set."""
    return lambda text: None if text.strip().lower() in {"none", "off"} else parse(text)


def _limit(text: str) -> int | None:
    return units.parse_rate(text) or None


def _path(text: str) -> Path:
    if not text.strip() or "\0" in text:
        raise ValueError("expected a path, found nothing")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _text(text: str) -> str:
    if not text:
        raise ValueError("expected some text, found nothing")
    return text


def _switch(text: str) -> bool:
    word = text.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"", "0", "false", "no", "off"}:
        return False
    raise ValueError(f'expected 1 or 0, found "{text[:40]}"')


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f'expected one of {", ".join(choices)}, found "{text[:40]}"')
        return text

    return parse


def _count(text: str) -> int:
    return _whole(text, least=0, most=9)


_DEFAULTS = Settings()


def _setting(name: str, short: str, metavar: str, parse: Callable[[str], Any], text: str) -> Option:
    long = f"--{name.replace('_', '-')}"
    return Option(
        name=name,
        flags=(short, long) if short else (long,),
        help=text,
        parse=parse,
        default=getattr(_DEFAULTS, name),
        metavar=metavar,
        in_manifest=True,
    )


SETTINGS: tuple[Option, ...] = (
    _setting("workers", "-j", "N", _workers, "products in flight at once (default: 8)"),
    _setting("segments", "-s", "N|auto", _segments, "most connections to one product (default: auto)"),
    _setting(
        "limit_rate", "", "RATE", _or_none(_limit), "bytes a second over the whole run, such as 40M (default: no limit)"
    ),
    _setting(
        "retries", "", "N", _retries, "attempts in a row without progress before a product has failed (default: 10)"
    ),
    _setting(
        "timeout", "", "SECONDS", _timeout, "seconds without a byte before a connection is given up (default: 60)"
    ),
    _setting(
        "min_rate", "", "RATE", units.parse_rate, "slower than this over the time-out counts the same (default: 1K)"
    ),
    _setting(
        "max_wait",
        "",
        "DURATION",
        units.parse_duration,
        "longest that a server's Retry-After or 202 is obeyed for one product (default: 1h)",
    ),
    _setting(
        "window", "", "HH:MM-HH:MM", _or_none(units.parse_window), "transfer only in this local time window, else wait"
    ),
    _setting("until", "", "HH:MM", _or_none(units.parse_time), "stop at this local time with what is left (exit 5)"),
    _setting("ca_file", "", "FILE", _or_none(_path), "extra CA certificates (PEM)"),
)

_PROGRESS = ("auto", "bar", "plain", "json", "none")

RUN_OPTIONS: tuple[Option, ...] = (
    Option(
        name="destination",
        flags=("-d", "--destination"),
        metavar="DIR",
        parse=_path,
        help="where the products go (default: the manifest's `destination`)",
    ),
    Option(
        name="select",
        flags=("--select",),
        metavar="GLOB",
        kind=Kind.REPEATED,
        parse=_text,
        default=(),
        help="only products whose file name matches; may be repeated",
    ),
    Option(
        name="overwrite",
        flags=("--overwrite",),
        kind=Kind.SWITCH,
        parse=_switch,
        default=False,
        help="replace existing files that disagree with the manifest",
    ),
    Option(
        name="trust_existing",
        flags=("--trust-existing",),
        kind=Kind.SWITCH,
        parse=_switch,
        default=False,
        help="accept existing files of which nothing is known, without asking the archive",
    ),
    Option(
        name="wait_for_space",
        flags=("--wait-for-space",),
        kind=Kind.SWITCH,
        parse=_switch,
        default=False,
        help="wait for room when the disk is full, rather than stop",
    ),
    Option(
        name="dry_run",
        flags=("--dry-run",),
        kind=Kind.SWITCH,
        parse=_switch,
        default=False,
        help="print what would be done and fetch nothing",
    ),
    Option(
        name="progress",
        flags=("--progress",),
        metavar="KIND",
        parse=_one_of(_PROGRESS),
        choices=_PROGRESS,
        default="auto",
        help="auto, bar, plain, json or none (default: auto)",
    ),
    Option(
        name="json",
        flags=("--json",),
        kind=Kind.SWITCH,
        parse=_switch,
        default=False,
        help="print the summary as one JSON object on standard output, and nothing else there",
    ),
    Option(
        name="report",
        flags=("--report",),
        metavar="FILE",
        parse=_path,
        help="write the morning report (HTML) to this file",
    ),
    Option(name="log_file", flags=("--log-file",), metavar="FILE", parse=_path, help="write a log to this file"),
    Option(
        name="quiet",
        flags=("-q", "--quiet"),
        kind=Kind.SWITCH,
        parse=_switch,
        default=False,
        help="print errors and the summary only",
    ),
    Option(
        name="verbose",
        flags=("-v", "--verbose"),
        kind=Kind.COUNTED,
        parse=_count,
        default=0,
        help="say more; twice for everything",
    ),
)

_BY_NAME = {option.name: option for option in (*SETTINGS, *RUN_OPTIONS)}


def by_name(name: str) -> Option:
    """The option of that name; raise `KeyError` where there is none."""
    return _BY_NAME[name]


def value_of(
    option: Option,
    *,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    manifest: Mapping[str, object] | None = None,
) -> Any:
    """What an option is in the end: flag, else variable, else manifest, else default.

    `flags` holds what the command line gave by option name (None: not given): text, or a value that is parsed already.
    An empty variable counts as not set. Raise `UsageError` that names the flag or the variable.
    """
    given = flags.get(option.name)
    if given is not None and given != ():
        return _from_flag(option, given)
    text = environ.get(option.variable, "")
    if text:
        return _parse(option, text, option.variable)
    if manifest is not None and option.in_manifest and option.name in manifest:
        return manifest[option.name]
    return option.default


def resolve(
    *, flags: Mapping[str, object], environ: Mapping[str, str], manifest: Mapping[str, object] | None = None
) -> Settings:
    """The settings of a run; raise `UsageError` that names the flag or the variable that is wrong."""
    values = {o.name: value_of(o, flags=flags, environ=environ, manifest=manifest) for o in SETTINGS}
    if values["ca_file"] is not None:
        values["ca_file"] = Path(values["ca_file"]).absolute()
    return Settings(**values)


def resolve_run_options(*, flags: Mapping[str, object], environ: Mapping[str, str]) -> RunOptions:
    """What only the command line and the environment say of a run; raise `UsageError` as `resolve` does."""
    fields = RunOptions.__dataclass_fields__
    return RunOptions(**{o.name: value_of(o, flags=flags, environ=environ) for o in RUN_OPTIONS if o.name in fields})


def _from_flag(option: Option, given: object) -> Any:
    if option.kind is Kind.REPEATED:
        texts = [given] if isinstance(given, str) else list(given)  # type: ignore[call-overload]
        return tuple(option.parse(text) for text in texts)
    return _parse(option, given, option.flag) if isinstance(given, str) else given


def _parse(option: Option, text: str, where: str) -> Any:
    try:
        if option.kind is Kind.REPEATED:
            return tuple(option.parse(line.strip()) for line in text.splitlines() if line.strip())
        return option.parse(text)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
