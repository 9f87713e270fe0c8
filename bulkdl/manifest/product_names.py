"""Names of products whose URLs end in one name: as much of the path, or of the query, as tells them apart. Pure.

The names depend on the URLs of the whole manifest alone, not on the order of the downloads, so they are the same in every
run. A product that the journal knows keeps the name that it has there, also if a later manifest would give it another.
Nothing that may be a secret becomes part of a name; where only such parts differ, a hash of the URL does.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from bulkdl.core.filenames import fold, from_segment, from_url, safe_component, split_suffix

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from bulkdl.core.urls import Url

__all__ = ["common_depth", "names_apart"]

_PLAIN = re.compile(r"(?!(?i:con|prn|aux|nul|com|lpt))[A-Za-z0-9_-](?:[A-Za-z0-9_.-]{0,200}[A-Za-z0-9_-])?")
"""A segment that is its own safe name; nearly all are."""
_SECRET_KEY = re.compile(
    r"token|secret|passw|pwd|credential|api-?_?key|access-?_?key|auth(?!or)|signature|policy|jwt|session|ticket|expires"
    r"|^(?:x-(?:amz|goog|oss|cos|ms|obs)-.*|key|sig|sign|hmac|sid|code|awsaccesskeyid|googleaccessid|key-pair-id"
    r"|s[vterp]|spr|sip|ss|srt|sk(?:oid|tid|t|e|s|v)|user|username|login|email)$",
    re.IGNORECASE,
)
"""Parameters that hold a credential or belong to a signature, which differs from day to day."""
_OPAQUE = re.compile(r"eyJ[A-Za-z0-9_-]{10}|(?=[A-Za-z0-9+=]*[a-z])(?=[A-Za-z0-9+=]*[A-Z])[A-Za-z0-9+=]{24}")
"""A value that looks like a token: a JWT, or a long run of letters of both cases and digits."""
_SCRIPTS = frozenset({".php", ".asp", ".aspx", ".ashx", ".jsp", ".cgi", ".do", ".pl", ".py", ".exe", ".dll"})
"""Suffixes of programs on a server: they say nothing about what the program sends."""
_LONGEST_LABEL = 120
_SHORTEST_TOKEN = 13


def names_apart(urls: Sequence[Url], taken: Container[str] = frozenset()) -> dict[int, str]:
    """Return the names of those URLs that share the name at their end with others, by position in `urls`.

    `taken` has the folded names that none of them may get.
    """
    first: dict[str, int] = {}
    groups: dict[str, list[int]] = {}
    for position, url in enumerate(urls):
        key = _last_name(url)
        if (other := first.setdefault(key, position)) != position:
            groups.setdefault(key, [other]).append(position)
    if not groups:
        return {}
    names: dict[int, str] = {}
    for members in groups.values():
        names.update(zip(members, _names([urls[i] for i in members]), strict=True))
    single = first.keys() - groups.keys()
    files = {*single, *map(fold, names.values())}
    for position, name in names.items():
        if any(folder in files or folder in taken for folder in _folders(fold(name))):
            names[position] = safe_component(name.replace("/", "_"))  # a folder cannot have the name of a file
    used = Counter(map(fold, names.values()))
    return {
        position: _with_hash(name, urls[position])
        if used[key := fold(name)] > 1 or key in single or key in taken
        else name
        for position, name in names.items()
    }


def common_depth(paths: Sequence[tuple[str, ...]]) -> int:
    """Return how many components at the end tell the paths apart, as far as they differ at all."""
    different, depth = len(set(paths)), 1
    while len({path[-depth:] for path in paths}) < different:
        depth += 1
    return depth


def _last_name(url: Url) -> str:
    """Return the folded name at the end of the URL."""
    last = url.path.rpartition("/")[2]
    return last.lower() if _PLAIN.fullmatch(last) else fold(from_url(url))


def _names(urls: list[Url]) -> list[str]:
    """Return a name for each of several URLs that end in one name."""
    paths = [_path(url) for url in urls]
    folded = [tuple(fold("/".join(path)).split("/")) for path in paths]
    depth = common_depth(folded)
    same: dict[tuple[str, ...], list[int]] = {}
    for i, path in enumerate(folded):
        same.setdefault(path, []).append(i)
    names = ["/".join(path[-depth:]) for path in paths]
    for members in same.values():
        if len(members) == 1:
            continue
        hosts = {urls[i].origin for i in members}
        by_host: dict[str, list[int]] = {}
        for i in members:
            by_host.setdefault(urls[i].origin, []).append(i)
            if len(hosts) > 1:
                names[i] = f"{_host(urls[i])}/{names[i]}"
        for alike in by_host.values():
            labels = _query_labels([urls[i].query for i in alike]) if len(alike) > 1 else [""]
            for i, label in zip(alike, labels, strict=True):
                names[i] = _labelled(names[i], label)
    return names


def _path(url: Url) -> tuple[str, ...]:
    """Return the names that the segments of the path give; at least one."""
    return tuple(filter(None, map(from_segment, url.path.split("/")))) or (from_url(url),)


def _host(url: Url) -> str:
    return safe_component(url.beginning.rpartition("/")[2].rpartition("@")[2].lower())


def _query_labels(queries: list[str]) -> list[str]:
    """Return what tells each query from the others: the parameters that differ, without those that may be secret."""
    tables = [_table(query) for query in queries]
    keys = {key for table in tables for key in table}
    differing = {key for key in keys if not _SECRET_KEY.search(key) and len({table.get(key) for table in tables}) > 1}
    return [_label(pair for pair in table.items() if pair[0] in differing) for table in tables]


def _table(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    escaped = "%" in query or "+" in query
    for pair in filter(None, query.split("&")):
        key, _, value = (unquote_plus(pair) if escaped else pair).partition("=")
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def _label(pairs: Iterable[tuple[str, str]]) -> str:
    shown = [f"{key}={value}" if value else key for key, value in pairs if not (_is_opaque(key) or _is_opaque(value))]
    return "_".join(shown)[:_LONGEST_LABEL]


def _is_opaque(text: str) -> bool:
    return len(text) >= _SHORTEST_TOKEN and _OPAQUE.search(text) is not None


def _labelled(name: str, label: str) -> str:
    """Return the name with a label before its suffix."""
    if not label:
        return name
    folder, slash, last = name.rpartition("/")
    stem, suffix = split_suffix(last)
    if suffix.lower() in _SCRIPTS:
        stem, suffix = last, ""
    return f"{folder}{slash}{safe_component(f'{stem}_{label}{suffix}')}"


def _with_hash(name: str, url: Url) -> str:
    return _labelled(name, url.fingerprint[:8])


def _folders(name: str) -> Iterable[str]:
    folder = name.rpartition("/")[0]
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]
