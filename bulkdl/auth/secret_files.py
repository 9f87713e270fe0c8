"""Read files that hold secrets: an INI file with a `[login]` section, and `.netrc`.

Messages never quote their contents.
"""

from __future__ import annotations

import os
import stat
from dataclasses import field
from typing import TYPE_CHECKING

from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.secret import Secret

if TYPE_CHECKING:
    import configparser
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["NetrcEntry", "SecretFileError", "netrc_entry", "read_login_file", "readable_by_others"]

_MAX_FILE_BYTES = 1 << 20
_KEYS = {
    "username": ("user", "username"),
    "password": ("password",),
    "totp_secret": ("totp_secret",),
    "client_secret": ("client_secret",),
    "token": ("token",),
}


class SecretFileError(Exception):
    """A file cannot be used. The text names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class NetrcEntry:
    machine: str
    login: str
    password: Secret = field(repr=False)


def read_login_file(path: Path) -> Mapping[str, Secret]:
    """Return the non-empty values of `[login]`, by our names for them (the keys of `_KEYS`).

    No interpolation: a `%` in a password stays a `%`. Quotes, `=`, `:`, `#` and `;` inside a value belong to it.
    Raise `SecretFileError`.
    """
    import configparser  # noqa: PLC0415 - few accounts use such a file

    parser = configparser.RawConfigParser(default_section="")
    try:
        parser.read_string(_text(path))
    except configparser.MissingSectionHeaderError as error:
        raise SecretFileError(f"{path}:{error.lineno}: expected the line [login] before any value") from None
    except (configparser.DuplicateOptionError, configparser.DuplicateSectionError) as error:
        raise SecretFileError(f"{path}:{error.lineno}: duplicate key or section; keep one") from None
    except configparser.ParsingError as error:
        line = error.errors[0][0] if error.errors else 0
        raise SecretFileError(f"{path}:{line}: expected `name = value`") from None
    section = next((name for name in parser.sections() if name.strip().lower() == "login"), None)
    if section is None:
        raise SecretFileError(
            f"{path} has no [login] section; expected [login] with user, password and, if used, totp_secret"
        )
    return {ours: value for ours, keys in _KEYS.items() if (value := _value(path, parser[section], keys))}


def _value(path: Path, section: configparser.SectionProxy, keys: Sequence[str]) -> Secret | None:
    for key in keys:
        value = section.get(key, "")
        if "\n" in value:
            raise SecretFileError(f"{path}: the value of {key} spans several lines; remove the leading spaces")
        if value:
            return Secret(value)
    return None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise SecretFileError(f"{path} does not exist") from None
    except OSError as error:
        raise SecretFileError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise SecretFileError(f"{path} is larger than 1 MiB; it cannot be a file with a [login] section")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SecretFileError(f"{path} is not UTF-8; save it as UTF-8") from None


def readable_by_others(path: Path) -> bool:
    """Tell whether group or others may read the file; False on systems without POSIX permissions."""
    if os.name != "posix":
        return False
    try:
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False


def netrc_entry(path: Path, machines: Sequence[str]) -> NetrcEntry | None:
    """Return the entry of the first machine that the file lists; ignore its `default`. Raise `SecretFileError`."""
    import netrc  # noqa: PLC0415 - few accounts use such a file

    try:
        entries = netrc.netrc(str(path)).hosts
    except FileNotFoundError:
        return None
    except netrc.NetrcParseError as error:  # its own message can contain the password
        raise SecretFileError(f"{path}:{error.lineno}: not a valid .netrc line") from None
    except UnicodeDecodeError:
        raise SecretFileError(f"{path} is not UTF-8") from None
    except OSError as error:
        raise SecretFileError(f"{path} cannot be read: {error.strerror}") from None
    for machine in machines:
        login, _, password = entries.get(machine, ("", "", ""))
        if password:
            return NetrcEntry(machine, login or "", Secret(password))
    return None
