"""Read files that hold secrets: an INI file with a `[login]` section, and `.netrc` (see `auth/netrc_file`).

Messages never quote their contents.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from bulkdl.core.secret import Secret

if TYPE_CHECKING:
    import configparser
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from bulkdl.auth.netrc_file import Netrc

__all__ = ["SecretFileError", "read_login_file", "read_netrc", "readable_by_others"]

_MAX_FILE_BYTES = 1 << 20
_KEYS = {
    "username": ("user", "username"),
    "password": ("password",),
    "totp_secret": ("totp_secret",),
    "client_secret": ("client_secret",),
    "token": ("token",),
}


_MISTAKES = {
    **dict.fromkeys(("login", "name", "email", "e_mail", "mail", "account", "uid"), "user"),
    **dict.fromkeys(("pass", "passwd", "pwd", "pw", "passphrase"), "password"),
    **dict.fromkeys(
        ("totp", "otp", "mfa", "2fa", "totp_key", "totp_seed", "seed", "otpauth", "totp_uri"), "totp_secret"
    ),
    **dict.fromkeys(("secret", "clientsecret"), "client_secret"),
    **dict.fromkeys(("access_token", "bearer", "key", "api_key"), "token"),
}

_OF_THE_MANIFEST = frozenset({"client_auth", "client_id", "grant", "hosts", "scope", "token_url", "totp_field"})


class SecretFileError(Exception):
    """A file cannot be used. The text names the file and says what to do."""


def read_login_file(path: Path) -> Mapping[str, Secret]:
    """Return the non-empty values of `[login]`, by our names for them (the keys of `_KEYS`).

    No interpolation: a `%` in a password stays a `%`. Quotes, `=`, `:`, `#` and `;` inside a value belong to it; quotes
    around a value do not. Raise `SecretFileError`, also for an unknown key: without its value a login would fail.
    """
    import configparser  # noqa: PLC0415 - few accounts use such a file

    parser = configparser.RawConfigParser(default_section="")
    text = _text(path)
    try:
        parser.read_string(text)
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
    known = {key for keys in _KEYS.values() for key in keys}
    for key in parser[section]:
        if key not in known:
            raise SecretFileError(_unknown_key(path, text, key, known))
    return {ours: value for ours, keys in _KEYS.items() if (value := _value(path, parser[section], keys))}


def _value(path: Path, section: configparser.SectionProxy, keys: Sequence[str]) -> Secret | None:
    for key in keys:
        value = section.get(key, "")
        if "\n" in value:
            raise SecretFileError(f"{path}: the value of {key} spans several lines; remove the leading spaces")
        value = _unquoted(value)
        if value:
            return Secret(value)
    return None


def _unquoted(value: str) -> str:
    """Return the value without a pair of quotes around it, as a shell and most INI readers drop them."""
    quote = value[:1]
    around = len(value) >= 2 and quote in ("'", '"') and value[-1] == quote and quote not in value[1:-1]
    return value[1:-1] if around else value


def _unknown_key(path: Path, text: str, key: str, known: Collection[str]) -> str:
    """Describe the key. A word that no key looks like may be a part of a secret, so only its line is told."""
    import difflib  # noqa: PLC0415 - only where something is misspelt

    start = re.compile(rf"\s*{re.escape(key)}\s*(?:[=:]|$)", re.IGNORECASE)
    line = next((f":{n}" for n, row in enumerate(text.splitlines(), 1) if start.match(row)), "")
    if not re.fullmatch(r"[a-z][a-z_ .-]{0,29}", key):
        return f"{path}{line}: unknown key; expected user, password, totp_secret, client_secret or token"
    plain = re.sub(r"[ .-]", "_", key)
    if plain in _OF_THE_MANIFEST:
        return f'{path}{line}: unknown key "{key}"; set it in the manifest'
    close = _MISTAKES.get(plain) or next(iter(difflib.get_close_matches(plain, known, n=1, cutoff=0.6)), None)
    advice = f'did you mean "{close}"?' if close else "expected user, password, totp_secret, client_secret or token"
    return f'{path}{line}: unknown key "{key}"; {advice}'


def _text(path: Path) -> str:
    data = _content(path)
    if data is None:
        raise SecretFileError(f"{path} does not exist")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SecretFileError(f"{path} is not UTF-8; save it as UTF-8") from None


def _content(path: Path) -> bytes | None:
    """Return the bytes of the file, or None if it does not exist."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SecretFileError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise SecretFileError(f"{path} is larger than 1 MiB; it cannot be a file of secrets")
    return data


def readable_by_others(path: Path) -> bool:
    """Tell whether group or others may read the file; False on systems without POSIX permissions."""
    if os.name != "posix":
        return False
    try:
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False


def read_netrc(path: Path) -> Netrc:
    """Return the entries of a `.netrc`; none if the file does not exist. Raise `SecretFileError`."""
    from bulkdl.auth.netrc_file import parse_netrc  # noqa: PLC0415 - few accounts use such a file

    return parse_netrc(_content(path) or b"")
