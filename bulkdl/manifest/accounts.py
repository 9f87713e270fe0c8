"""Build `Account` values: the preset's values first, overridden by the account's own keys; secrets stay references."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bulkdl.auth import providers
from bulkdl.core.models import Account, AuthKind, ClientAuth, Grant, Resume, SecretRef, TokenIn
from bulkdl.core.quota import parse_quotas
from bulkdl.core.urls import HostList, Url
from bulkdl.manifest.problems import SECRET_KEYS, excerpt
from bulkdl.manifest.validators import (
    check_host,
    check_url,
    expand,
    has_reference,
    header_name_problem,
    is_loopback,
    is_reference,
    resolve_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bulkdl.core.models import Product, Quota
    from bulkdl.manifest.problems import Findings
    from bulkdl.manifest.source_position import Place
    from bulkdl.manifest.validators import Environment

__all__ = ["read_account", "with_product_hosts"]

_UNUSED_KEYS = {
    AuthKind.OIDC: ("token",),
    AuthKind.BASIC: ("token", "token_url", "client_id", "client_secret", "totp_secret"),
    AuthKind.BEARER: ("password", "token_url", "client_id", "client_secret", "totp_secret"),
    AuthKind.HEADER: ("username", "password", "token_url", "client_id", "client_secret", "totp_secret", "token_in"),
    AuthKind.NONE: ("token", "username", "password", "client_secret", "totp_secret"),
}


def read_account(name: str, own: dict[str, Any], place: Place, environment: Environment) -> Account | None:
    """Build the account and report its problems; return None if its `auth` is unknown.

    `own` lacks the keys whose values the schema refused; `place` still has their positions.
    """
    provider = _provider(own.get("provider"), place.at("provider"), environment.findings)
    values: dict[str, Any] = provider.values_for(own.get("auth")) if provider else {}
    values.update(own)
    if "auth" not in values:
        if own.get("provider") is None and not {"auth", "provider"} & set(place.items or ()):
            message = f'the account "{name}" needs `auth` (oidc, basic, bearer, header or none) or a `provider`'
            environment.findings.add(place, message)
        return None
    auth = AuthKind(values["auth"])
    _warn_of_unused_keys(name, auth, own, place, environment.findings)
    token_url = _token_url(name, auth, values.get("token_url"), place, environment)
    hosts = _hosts(values.get("hosts"), place.at("hosts"), environment.findings)
    secrets = {key: _secret(key, own.get(key), place.at(key), environment.findings) for key in SECRET_KEYS}
    return Account(
        name=name,
        auth=auth,
        provider=provider.name if provider else None,
        token_url=token_url,
        client_id=_expanded(values.get("client_id"), place.at("client_id"), environment),
        grant=Grant(values.get("grant", Grant.PASSWORD)),
        client_auth=ClientAuth(values["client_auth"]) if "client_auth" in values else None,
        scope=_expanded(values.get("scope"), place.at("scope"), environment),
        username=_username(values.get("username"), place.at("username"), environment.findings),
        totp_field=values.get("totp_field", "totp"),
        token_in=TokenIn(values.get("token_in", TokenIn.HEADER)),
        token_param=values.get("token_param", "token"),
        header=_header(name, auth, values.get("header"), place, environment.findings),
        hosts=hosts,
        max_connections=_int_or_none(values.get("max_connections")),
        quota=_quota(values.get("quota"), place.at("quota"), environment.findings),
        resume=Resume(values["resume"]) if "resume" in values else None,
        secrets=_secrets_file(values.get("secrets"), place.at("secrets"), environment),
        netrc_hosts=_netrc_hosts(provider, token_url, hosts),
        **secrets,
    )


def _provider(name: str | None, place: Place, findings: Findings) -> providers.Provider | None:
    if name is None:
        return None
    known = providers.names()
    if name in known:
        return providers.load(name)
    import difflib  # noqa: PLC0415 - only where something is misspelt

    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    advice = f'did you mean "{close[0]}"?' if close else f"expected one of {', '.join(known)}"
    findings.add(place, f'unknown provider "{excerpt(name)}"; {advice}')
    return None


def _warn_of_unused_keys(name: str, auth: AuthKind, own: dict[str, Any], place: Place, findings: Findings) -> None:
    for key in _UNUSED_KEYS[auth]:
        if own.get(key) is not None:
            findings.warn(place.key(key), f'`{key}` of the account "{name}" is not used by `auth: {auth}`')


def _token_url(name: str, auth: AuthKind, text: str | None, place: Place, environment: Environment) -> Url | None:
    if auth is not AuthKind.OIDC:
        return None
    if text is None:
        environment.findings.add(place, f'the account "{name}" needs a `token_url`, or a `provider` that has one')
        return None
    there = place.at("token_url")
    expanded = expand(text, environment.environ, there, environment.findings)
    url = check_url(expanded.strip(), there, environment.findings) if expanded is not None else None
    if url is not None and url.scheme == "http" and not is_loopback(url.host):
        environment.findings.warn(there, f"the password goes to {url} unencrypted; use https if the service offers it")
    return url


def _header(name: str, auth: AuthKind, field: str | None, place: Place, findings: Findings) -> str:
    if auth is AuthKind.HEADER:
        if field is None:
            findings.add(place, f'the account "{name}" needs a `header`: the name of the field that carries its key')
        elif problem := header_name_problem(field):
            findings.add(place.at("header"), f"`header`: {problem}")
    elif field is not None:
        findings.warn(place.key("header"), f'`header` of the account "{name}" is not used by `auth: {auth}`')
    return field or "Authorization"


def _hosts(entries: list[str] | None, place: Place, findings: Findings) -> HostList | None:
    if entries is None:
        return None
    good = []
    for i, text in enumerate(entries):
        entry, problem = check_host(text)
        if problem:
            findings.add(place.at(i), f"`hosts`: {problem}")
        else:
            good.append(entry)
            if entry.startswith("*.") and "." not in entry[2:].rstrip("."):
                findings.warn(place.at(i), f"`hosts`: {entry} lets the credential go to every host under {entry[1:]}")
    return HostList(tuple(dict.fromkeys(good)))


def _secret(key: str, text: str | None, place: Place, findings: Findings) -> SecretRef | None:
    if text is None:
        return None
    if key == "token" and text.lower().startswith("bearer ") and is_reference(text[7:]):
        findings.add(place, "`token`: expected only the token; remove the word Bearer")
        return None
    if not is_reference(text):
        found = "literal text beside it" if has_reference(text) else "literal text"
        message = (
            f"`{key}`: expected a reference such as ${{NAME}}, found {found} (not shown); put the whole secret in an "
            "environment variable or in an INI file named by `secrets:`, because manifests are meant to be shared"
        )
        findings.add(place, message)
        return None
    return SecretRef(text)


def _username(text: str | None, place: Place, findings: Findings) -> SecretRef | None:
    if text is None:
        return None
    if not text or ("${" in text and not has_reference(text)):
        findings.add(place, "`username`: expected a user name, or a reference such as ${NAME}")
        return None
    return SecretRef(text)


def _expanded(text: str | None, place: Place, environment: Environment) -> str | None:
    return None if text is None else expand(text, environment.environ, place, environment.findings)


def _secrets_file(text: str | None, place: Place, environment: Environment) -> Path | None:
    expanded = _expanded(text, place, environment)
    return None if expanded is None else resolve_path(expanded, environment.base)


def _int_or_none(value: Any) -> int | None:
    return None if value is None else int(value)


def _quota(given: str | list[str] | None, place: Place, findings: Findings) -> tuple[Quota, ...]:
    """Return the quotas of a text, or of a list of texts; report those that cannot be read."""
    if given is None:
        return ()
    texts = [(given, place)] if isinstance(given, str) else [(text, place.at(i)) for i, text in enumerate(given)]
    found: list[Quota] = []
    for text, there in texts:
        try:
            found += parse_quotas(text)
        except ValueError as error:
            findings.add(there, f"`quota`: {error}")
    return tuple(found)


def _netrc_hosts(provider: providers.Provider | None, token_url: Url | None, hosts: HostList | None) -> tuple[str, ...]:
    """Return the hosts to look up in `.netrc`: the preset's, else the token endpoint's, else the account's own hosts."""
    if provider is not None and provider.netrc_hosts:
        return provider.netrc_hosts
    if token_url is not None:
        return (token_url.host,)
    return hosts.names() if hosts is not None else ()


def with_product_hosts(accounts: dict[str, Account], products: Iterable[Product]) -> dict[str, Account]:
    """Add the products' hosts to those that `.netrc` is asked for, where they may get an account's `auth: basic`."""
    found: dict[str, dict[str, None]] = {
        name: {} for name, account in accounts.items() if account.auth is AuthKind.BASIC and account.provider is None
    }
    if found:
        for product in products:
            hosts = found.get(product.account or "")
            if hosts is None or product.account is None:
                continue
            listed = accounts[product.account].hosts
            if listed is None:
                hosts[product.url.host] = None
            else:
                hosts.update((url.host, None) for url in product.sources if listed.allows(url))
    return {
        name: replace(account, netrc_hosts=tuple(dict.fromkeys((*account.netrc_hosts, *found.get(name, ())))))
        for name, account in accounts.items()
    }
