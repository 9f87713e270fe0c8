"""Find an account's secrets.

Order of the places: the manifest, its `secrets:` file, the system keyring, `.netrc`, a prompt on the terminal. The
keyring is slow and may ask the user to unlock it, so we skip it if the account needs nothing more by then.
"""

from __future__ import annotations

import re
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bulkdl.auth.secret_files import SecretFileError, read_login_file, read_netrc, readable_by_others
from bulkdl.core.errors import AccountStopped
from bulkdl.core.fast_dataclass import dataclass
from bulkdl.core.models import AuthKind, Grant, SecretSource
from bulkdl.core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bulkdl.auth.netrc_file import Netrc, NetrcEntry
    from bulkdl.core.models import Account, SecretRef

__all__ = ["Credentials", "KeyringLookup", "MissingSecret", "NoKeyring", "Prompt", "keyring_lookup", "resolve", "tidy"]

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LABELS = {
    "username": "user name",
    "password": "password",
    "client_secret": "client secret",
    "totp_secret": "TOTP secret",
    "token": "token",
}


class Prompt(Protocol):
    def __call__(self, question: str, /, *, hidden: bool = True) -> str | None:
        """Ask the user; `hidden`: without an echo of the input. Empty: no answer; None: the user ended the input."""
        ...


class KeyringLookup(Protocol):
    def __call__(self, service: str, username: str) -> str | None:
        """Return the keyring's entry, or None if it has none.

        Raise `NoKeyring` if this machine has no keyring, another `LookupError` if it is unusable (for example locked).
        """
        ...


class NoKeyring(LookupError):  # noqa: N818 - a state, not an error
    """No keyring on this machine. Usual on a server; it matters only if a secret is found nowhere else."""


class _NotInstalled(NoKeyring):
    """The optional `keyring` package is not installed, so the messages do not mention a keyring."""


class MissingSecret(AccountStopped):
    """A secret was found nowhere; a prompt could ask for a user name, a password, a client secret or a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The secrets found for one account, and their places."""

    username: str | None = field(default=None, repr=False)
    password: Secret | None = None
    client_secret: Secret | None = None
    totp_secret: Secret | None = None
    token: Secret | None = None
    sources: Mapping[str, SecretSource] = field(default_factory=dict)
    """Name of the field -> the place where we found it."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Name of the field -> the place in words, such as the name of the variable."""
    by_host: Mapping[str, tuple[str, Secret]] = field(default_factory=dict, repr=False)
    """User name and password for single hosts, if `.netrc` has them; other hosts get `username` and `password`."""
    only_by_host: bool = False
    """Only the hosts in `by_host` may get a credential: the manifest lists no hosts, and `.netrc` none but these."""
    warnings: tuple[str, ...] = ()


def resolve(
    account: Account,
    *,
    environ: Mapping[str, str],
    prompt: Prompt | None = None,
    keyring: KeyringLookup | None = None,
) -> Credentials:
    """Find the secrets that the account needs. `prompt` None: not on a terminal.

    Raise `AccountStopped`, which names every place searched and what to set. Other accounts continue.
    """
    return _Search(account, environ, prompt, keyring).run()


def keyring_lookup(service: str, username: str) -> str | None:
    """Read an entry of the system keyring (a `KeyringLookup`). The first call imports the package."""
    try:
        import keyring  # noqa: PLC0415 - optional, and slow to import
        from keyring.errors import KeyringError, NoKeyringError  # noqa: PLC0415
    except ImportError:
        raise _NotInstalled from None
    try:
        found = keyring.get_password(service, username)
    except NoKeyringError:
        raise NoKeyring("this machine has none") from None
    except KeyringError as error:
        raise LookupError(type(error).__name__) from None
    return found if isinstance(found, str) else None


class _Search:
    """The search for one account's secrets: those found so far, and the places searched without success."""

    def __init__(
        self, account: Account, environ: Mapping[str, str], prompt: Prompt | None, keyring: KeyringLookup | None
    ) -> None:
        self._account = account
        self._environ = environ
        self._prompt = prompt
        self._keyring = keyring
        self._found: dict[str, tuple[Secret, SecretSource]] = {}
        self._searched: dict[str, list[str]] = {}
        self._warnings: list[str] = []
        self._places: dict[str, str] = {}
        self._by_host: dict[str, tuple[str, Secret]] = {}
        self._only_by_host = False

    def run(self) -> Credentials:
        required = _required(self._account)
        optional = _optional(self._account)
        wanted = (*required, *optional)
        needed = (*required, *(name for name in optional if _reference(self._account, name) is not None))
        self._from_manifest(wanted)
        self._from_file(wanted)
        if self._missing_names(needed):
            self._from_keyring(wanted)
        self._from_netrc(wanted)
        self._from_prompt(required)
        if missing := self._missing_names(needed):
            raise self._missing_error(missing)
        return self._credentials()

    def _credentials(self) -> Credentials:
        values = {name: value for name, (value, _) in self._found.items()}
        username = values.pop("username", None)
        return Credentials(
            username=None if username is None else username.reveal(),
            **values,
            sources={name: source for name, (_, source) in self._found.items()},
            places=self._places,
            by_host=self._by_host,
            only_by_host=self._only_by_host,
            warnings=tuple(self._warnings),
        )

    def _keep(self, name: str, value: str, source: SecretSource, place: str = "") -> None:
        """Keep a value as it is sent. Raise `AccountStopped` for a value that cannot be one."""
        try:
            text = value if source is SecretSource.NETRC else tidy(name, value)  # its escapes may name line ends
        except ValueError as error:
            where = f"{source} {place}".strip()
            hint = "Copy it again from the page that shows the QR code" if name == "totp_secret" else "Correct it there"
            reason = f"{_LABELS[name]} from {where}: {error}"
            raise AccountStopped(reason, account=self._account.name, hint=hint) from None
        if text:
            self._found[name] = (Secret(text), source)
            self._places[name] = "the manifest" if source is SecretSource.GIVEN else f"{source} {place}".strip()

    def _missing_names(self, wanted: tuple[str, ...]) -> list[str]:
        return [name for name in wanted if name not in self._found]

    def _not_found(self, name: str, place: str) -> None:
        self._searched.setdefault(name, []).append(place)

    # The places, in search order.

    def _from_manifest(self, wanted: tuple[str, ...]) -> None:
        for name in wanted:
            reference = _reference(self._account, name)
            if reference is None:
                continue
            variables = _VARIABLE.findall(reference.template)
            unset = [variable for variable in variables if not self._environ.get(variable)]
            if unset:
                for variable in unset:
                    state = "empty" if variable in self._environ else "not set"
                    self._not_found(name, f"the variable {variable} ({state})")
                continue
            text = _VARIABLE.sub(lambda match: self._environ[match[1]].rstrip("\r\n"), reference.template)
            place = "variable " + ", ".join(variables) if variables else ""
            self._keep(name, text, SecretSource.ENVIRONMENT if variables else SecretSource.GIVEN, place)

    def _from_file(self, wanted: tuple[str, ...]) -> None:
        path = self._account.secrets
        if path is None:
            return
        try:
            values = read_login_file(path)
        except SecretFileError as error:
            hint = "Fix the file, or remove `secrets:` and set environment variables"
            raise AccountStopped(f"secrets file: {error}", account=self._account.name, hint=hint) from None
        self._warn_if_readable(path)
        for name in self._missing_names(wanted):
            if name in values:
                self._keep(name, values[name].reveal(), SecretSource.SECRETS_FILE, str(path))
            else:
                self._not_found(name, f"{path} ({'user' if name == 'username' else name})")

    def _from_keyring(self, wanted: tuple[str, ...]) -> None:
        if self._keyring is None:
            return
        services = (f"bulkdl:{self._account.name}", self._account.name)
        try:
            for name in self._missing_names(wanted):
                for service, entry in self._keyring_entries(services, name):
                    value = self._keyring(service, entry)
                    if value:
                        self._keep(name, value, SecretSource.KEYRING, f"({service})")
                        break
                else:
                    self._not_found(name, f"the keyring (service {services[0]}, user {name})")
        except _NotInstalled:
            return
        except LookupError as error:
            cause = str(error) or "locked"
            for name in self._missing_names(wanted):
                self._not_found(name, f"the keyring ({cause})")
            if not isinstance(error, NoKeyring):
                self._warnings.append(f"the keyring cannot be used ({cause})")

    def _keyring_entries(self, services: tuple[str, ...], name: str) -> list[tuple[str, str]]:
        """Return the entries to try: `bulkdl:ACCOUNT password`, then the usual `SERVICE USERNAME` for a password."""
        entries = [name]
        if name == "password" and "username" in self._found:
            entries.append(self._found["username"][0].reveal())
        return [(service, entry) for service in services for entry in entries]

    def _from_netrc(self, wanted: tuple[str, ...]) -> None:
        secret = "client_secret" if self._account.grant is Grant.CLIENT_CREDENTIALS else "password"
        machines = _machines(self._account)
        if secret not in self._missing_names(wanted) or not machines:
            return
        path = self._netrc_path()
        if path is None:
            self._not_found(secret, ".netrc (there is none)")
            return
        try:
            netrc = read_netrc(path)
        except SecretFileError as error:
            self._warnings.append(f".netrc: {error}")
            self._not_found(secret, f"{path} (cannot be read as .netrc)")
            return
        if netrc.bad_lines:
            self._warnings.append(_bad_lines_text(path, netrc.bad_lines))
        login = self._found["username"][0].reveal() if "username" in self._found else None
        entry = netrc.find(machines, login)
        if entry is None:
            user = "" if login is None else f", login {login}"
            self._not_found(secret, f"{path} (machine {' or '.join(machines)}{user})")
            return
        self._warn_if_readable(path)
        self._keep_netrc_entry(entry, secret, path, wanted)
        if self._account.auth is AuthKind.BASIC:
            self._keep_by_host(netrc, machines, login)

    def _keep_netrc_entry(self, entry: NetrcEntry, secret: str, path: Path, wanted: tuple[str, ...]) -> None:
        assert entry.password is not None  # `find` returns only such entries
        self._keep(secret, entry.password.reveal(), SecretSource.NETRC, str(path))
        if entry.login and "username" in self._missing_names(wanted):
            self._keep("username", entry.login, SecretSource.NETRC, str(path))

    def _keep_by_host(self, netrc: Netrc, machines: tuple[str, ...], login: str | None) -> None:
        """Keep the entry of each host: where no `hosts` say so, the password of one host never goes to another."""
        for machine in machines:
            entry = netrc.find([machine], login)
            user = (entry.login if entry is not None else None) or login
            if entry is not None and entry.password is not None and user:
                self._by_host[machine] = (user, entry.password)
        self._only_by_host = self._account.hosts is None and self._account.provider is None
        without = [machine for machine in machines if machine not in self._by_host]
        if without and self._only_by_host:
            self._warnings.append(f".netrc has no entry for {', '.join(without)}, which gets no password")

    def _netrc_path(self) -> Path | None:
        named = self._environ.get("NETRC")
        if named:
            return Path(named).expanduser()
        home = self._environ.get("HOME") or self._environ.get("USERPROFILE")
        candidates = [Path(home) / name for name in (".netrc", "_netrc")] if home else []
        return next((path for path in candidates if path.is_file()), None)

    def _from_prompt(self, required: tuple[str, ...]) -> None:
        ended = False
        for name in self._missing_names(required):
            if ended:
                self._not_found(name, "a prompt (the input ended)")
                continue
            if self._prompt is None:
                self._not_found(name, "a prompt (not on a terminal)")
                continue
            question = f"{_LABELS[name]} for account {self._account.name}"
            answer = self._prompt(question, hidden=name != "username")
            if answer:
                self._keep(name, answer, SecretSource.PROMPT)
            elif answer is None:
                ended = True
                self._not_found(name, "a prompt (the input ended)")
            else:
                self._not_found(name, "a prompt (no answer)")

    # Messages.

    def _warn_if_readable(self, path: Path) -> None:
        if readable_by_others(path):
            self._warnings.append(f"other users of this machine can read {path}; run `chmod 600 {path}`")

    def _missing_error(self, names: list[str]) -> MissingSecret:
        parts = [
            f"no {_LABELS[name]} (looked at: {'; '.join(self._searched.get(name, ['the manifest, which has none']))})"
            for name in names
        ]
        account = self._account.name
        variable = re.sub(r"\W", "_", f"{account}_{names[0]}").upper()
        hint = (
            f"Set it in one of these places, or write `{names[0]}: ${{{variable}}}` for account {account} in the "
            f"manifest and set that variable, or store it: {_keyring_advice()}keyring set bulkdl:{account} {names[0]}"
        )
        return MissingSecret(", ".join(parts), account=account, hint=hint)


def _keyring_advice() -> str:
    """Return what to do before `keyring` can be used."""
    from importlib.util import find_spec  # noqa: PLC0415 - only for this message

    try:
        found = find_spec("keyring") is not None
    except ValueError:
        found = False
    return "" if found else "pip install 'bulkdl[keyring]', then "


def _reference(account: Account, name: str) -> SecretRef | None:
    reference: SecretRef | None = getattr(account, name)
    return reference


def _required(account: Account) -> tuple[str, ...]:
    if account.auth is AuthKind.NONE:
        return ()
    if account.auth in (AuthKind.BEARER, AuthKind.HEADER):
        return ("token",)
    if account.auth is AuthKind.OIDC and account.grant is Grant.CLIENT_CREDENTIALS:
        return ("client_secret",) if account.client_id else ("username", "client_secret")
    return ("username", "password")


def _optional(account: Account) -> tuple[str, ...]:
    if account.auth is AuthKind.OIDC and account.grant is Grant.PASSWORD:
        return ("totp_secret", "client_secret")
    return ()


def tidy(name: str, value: str) -> str:
    """Return a value without what a copy adds: line ends; around a token or TOTP secret, spaces and the word Bearer.

    A password may begin or end with spaces. Raise `ValueError`, which does not quote the value, for a line end inside.
    """
    text = value.rstrip("\r\n")
    if name in ("token", "totp_secret"):
        text = text.strip()
    if name == "totp_secret" and text:
        from bulkdl.auth.oidc.totp_secret import normalise  # noqa: PLC0415 - few accounts have one

        normalise(text)
    if name == "token":
        text = re.sub(r"\Abearer\s+", "", text, flags=re.IGNORECASE)
    if name != "totp_secret" and ("\n" in text or "\r" in text):
        raise ValueError("it has more than one line; keep only the secret itself")
    return text


def _bad_lines_text(path: Path, lines: tuple[int, ...]) -> str:
    numbers = ", ".join(map(str, lines[:5])) + (", …" if len(lines) > 5 else "")
    return f"{path}: unknown words in line {numbers} were skipped; expected machine, login, password"


def _machines(account: Account) -> tuple[str, ...]:
    """Return the machines for `.netrc`: `netrc_hosts`, else the token endpoint, else the hosts without wildcards."""
    if account.netrc_hosts or account.auth in (AuthKind.BEARER, AuthKind.HEADER, AuthKind.NONE):
        return account.netrc_hosts
    if account.token_url is not None:
        return (account.token_url.host,)
    return () if account.hosts is None else account.hosts.names()
