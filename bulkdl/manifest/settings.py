"""One table of all settings and options of a run: flag, variable, manifest key, parser, help text.

A flag beats a variable, a variable beats the manifest, the manifest beats the default.
"""

from __future__ import annotations

import math
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bulkdl.core import units
from bulkdl.core.errors import UsageError
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import Order, RunOptions, Settings
from bulkdl.core.quota import parse_share
from bulkdl.core.rate_timetable import parse_rate_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["RUN_OPTIONS", "SETTINGS", "Kind", "Option", "by_name", "resolve", "resolve_run_options", "value_of"]


class Kind(Enum):
    """Form of an option on the command line."""

    VALUE = "value"
    SWITCH = "switch"
    REPEATED = "repeated"
    COUNTED = "counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One setting or option of a run, with its flag, variable and manifest key."""

    name: str
    """Name of the field in `Settings`, `RunOptions` or the argparse namespace."""
    flags: tuple[str, ...]
    """Long flag last."""
    help: str
    parse: Callable[[str], Any]
    """Convert text to the value; raise `ValueError` with what was expected."""
    default: Any = None
    metavar: str | None = None
    kind: Kind = Kind.VALUE
    choices: tuple[str, ...] = ()
    in_manifest: bool = False
    """True if `name` is a key of the manifest's `settings`."""

    @property
    def flag(self) -> str:
        """Return the long flag."""
        return self.flags[-1]

    @property
    def variable(self) -> str:
        """Return the name of the environment variable."""
        return f"BULKDL_{self.name.upper()}"


def _integer(text: str, *, least: int, most: int, also: str = "") -> int:
    stripped = text.strip()
    if stripped.isascii() and stripped.isdigit() and len(stripped) <= 9 and least <= int(stripped) <= most:
        return int(stripped)
    raise ValueError(f'expected {also}a whole number from {least} to {most}, found "{text[:40]}"')


def _workers(text: str) -> int | None:
    return None if text.strip().lower() == "auto" else _integer(text, least=1, most=256, also="`auto` or ")


def _segments(text: str) -> int | None:
    return None if text.strip().lower() == "auto" else _integer(text, least=1, most=64, also="`auto` or ")


def _retries(text: str) -> int:
    return _integer(text, least=0, most=1_000_000)


def _timeout(text: str) -> float:
    seconds = units.parse_duration(text)
    if seconds <= 0:
        raise ValueError(f'expected a timeout of more than 0 seconds, found "{text[:40]}"')
    return seconds


def _or_none(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Accept `none` as well: it unsets a value from the manifest or a variable."""
    return lambda text: None if text.strip().lower() in {"none", "off"} else parse(text)


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


def _patience(text: str) -> float:
    if text.strip().lower() == "never":
        return math.inf
    try:
        return units.parse_duration(text)
    except ValueError:
        raise ValueError(f'expected a duration such as 30m or 6h, or never, found "{text[:40]}"') from None


def _count(text: str) -> int:
    return _integer(text, least=0, most=9)


def _max_bytes(text: str) -> int:
    if size := units.parse_size(text):
        return size
    raise ValueError(f'expected more than 0 bytes, found "{text[:40]}"')


def _order(text: str) -> Order:
    return Order(_one_of(_ORDERS)(text.strip().lower()))


_DEFAULTS = Settings()
_ORDERS = tuple(Order)


def _setting(
    name: str, short: str, metavar: str, parse: Callable[[str], Any], text: str, *, choices: tuple[str, ...] = ()
) -> Option:
    long = f"--{name.replace('_', '-')}"
    return Option(
        name=name,
        flags=(short, long) if short else (long,),
        help=text,
        parse=parse,
        default=getattr(_DEFAULTS, name),
        metavar=metavar,
        choices=choices,
        in_manifest=True,
    )


SETTINGS: tuple[Option, ...] = (
    _setting("workers", "-j", "N|auto", _workers, "most products in flight (default: auto, what the archive bears)"),
    _setting("segments", "-s", "N|auto", _segments, "maximum connections per product (default: auto)"),
    _setting(
        "limit_rate",
        "",
        "RATE",
        parse_rate_limit,
        'limit for the whole run in bytes per second, such as 40M, or by the time: "08:00,5M 18:00,off" (default: no limit)',
    ),
    _setting("retries", "", "N", _retries, "attempts in a row without progress before a product fails (default: 10)"),
    _setting(
        "retry_for",
        "",
        "DURATION",
        units.parse_duration,
        "go on with these attempts for at least this long, for a trouble that may pass (default: 1h)",
    ),
    _setting(
        "give_up_after",
        "",
        "DURATION|never",
        _patience,
        "longest wait for an archive or a token endpoint without one good answer (default: 6h)",
    ),
    _setting(
        "timeout",
        "",
        "SECONDS",
        _timeout,
        "seconds without data before a connection is dropped and resumed (default: 60)",
    ),
    _setting(
        "min_rate", "", "RATE", units.parse_rate, "drop connections slower than this over the timeout (default: 1K)"
    ),
    _setting(
        "max_wait",
        "",
        "DURATION",
        units.parse_duration,
        "longest total wait for one product as asked by the server (Retry-After, 202; default: 1h)",
    ),
    _setting(
        "window",
        "",
        "HH:MM-HH:MM",
        _or_none(units.parse_window),
        "download only in this local time window; wait outside it",
    ),
    _setting(
        "until",
        "",
        "HH:MM",
        _or_none(units.parse_time),
        "stop at this local time; unfinished products stay pending (exit 5)",
    ),
    _setting(
        "max_bytes",
        "",
        "SIZE",
        _or_none(_max_bytes),
        "begin no further product once this run has received so many bytes; the rest stays pending (exit 5)",
    ),
    _setting(
        "order",
        "",
        "ORDER",
        _order,
        "what is begun first: auto, manifest, largest, smallest or newest (default: auto, for the shortest run)",
        choices=_ORDERS,
    ),
    _setting(
        "quota", "", "SHARE|off", _or_none(parse_share), "stop an account at this share of its quota (default: 100%)"
    ),
    _setting("ca_file", "", "FILE", _or_none(_path), "extra CA certificates (PEM)"),
)


def _switch_option(name: str, text: str, *, short: str = "") -> Option:
    long = f"--{name.replace('_', '-')}"
    flags = (short, long) if short else (long,)
    return Option(name=name, flags=flags, kind=Kind.SWITCH, parse=_switch, default=False, help=text)


_PROGRESS = ("auto", "bar", "plain", "json", "none")

RUN_OPTIONS: tuple[Option, ...] = (
    Option(
        name="destination",
        flags=("-d", "--destination"),
        metavar="DIR",
        parse=_path,
        help="destination folder (default: the manifest's `destination`)",
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
    _switch_option("overwrite", "replace existing files whose size or content differs from the manifest or journal"),
    _switch_option(
        "trust_existing", "accept existing files that have no known size or checksum, without checking with the archive"
    ),
    _switch_option("wait_for_space", "when the disk is full, wait for disk space instead of stopping"),
    _switch_option("no_memory", "neither use nor record what was learned of the connections of hosts"),
    _switch_option("allow_sleep", "let the system go to sleep during the run"),
    _switch_option("dry_run", "print the plan and download nothing"),
    Option(
        name="progress",
        flags=("--progress",),
        metavar="KIND",
        parse=_one_of(_PROGRESS),
        choices=_PROGRESS,
        default="auto",
        help="progress display: auto, bar, plain, json or none (default: auto)",
    ),
    _switch_option("json", "print the summary as one JSON object on standard output, and nothing else there"),
    Option(
        name="report",
        flags=("--report",),
        metavar="FILE",
        parse=_path,
        help="write a report (HTML) of the run to this file",
    ),
    Option(name="log_file", flags=("--log-file",), metavar="FILE", parse=_path, help="append a log to this file"),
    _switch_option("quiet", "print errors and the summary only", short="-q"),
    Option(
        name="verbose",
        flags=("-v", "--verbose"),
        kind=Kind.COUNTED,
        parse=_count,
        default=0,
        help="print more; twice for everything",
    ),
)

_BY_NAME = {option.name: option for option in (*SETTINGS, *RUN_OPTIONS)}


def by_name(name: str) -> Option:
    """Return the option of that name; raise `KeyError` if there is none."""
    return _BY_NAME[name]


def value_of(
    option: Option,
    *,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    manifest: Mapping[str, object] | None = None,
) -> Any:
    """Return the value of an option: from the flag, else the variable, else the manifest, else the default.

    `flags` maps option names to what the command line gave: text, a parsed value, or None if it was not given.
    An empty variable counts as not set. Raise `UsageError`, which names the flag or the variable, for a wrong value.
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
    """Return the settings of a run; raise `UsageError`, which names the flag or the variable, for a wrong value."""
    values = {o.name: value_of(o, flags=flags, environ=environ, manifest=manifest) for o in SETTINGS}
    if values["ca_file"] is not None:
        values["ca_file"] = Path(values["ca_file"]).absolute()
    return Settings(**values)


def resolve_run_options(*, flags: Mapping[str, object], environ: Mapping[str, str]) -> RunOptions:
    """Return the options that only flags and variables can set; raise `UsageError` as `resolve` does."""
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
