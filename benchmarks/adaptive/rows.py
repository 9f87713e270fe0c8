"""The rows of the table, and variations of them with numbers drawn at random.

The sizes are such that the shortest time is about ten seconds.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from .rules import CLOSE, HOSTS, MB, Archive, Row, Rules

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NGINX_ROWS", "ROWS", "random_rows"]

_IDEAL_S = 10.0
_KIB = 1024


def _one(name: str, rules: Rules, sizes: tuple[int, ...]) -> Row:
    return Row(name=name, archives=(Archive(rules=rules, sizes=sizes),))


def _equal(total: float, count: int) -> tuple[int, ...]:
    return (round(total / count),) * count


def _each_held(each: float, connections: int, products: int) -> Row:
    total = each * connections
    name = f"{products} products, each connection held to {each:g} MB/s, {total:g} MB/s in all"
    sizes = _equal(0.8 * _IDEAL_S * total * MB, products)
    return _one(name, Rules(each=each * MB, total=total * MB), sizes)


def _small(first_byte_s: float, at_once: int) -> Row:
    products = round(0.9375 * _IDEAL_S / first_byte_s * at_once)
    name = f"{products} small products, {first_byte_s:g} s to the first byte, at most {at_once} served at once"
    rules = Rules(first_byte_s=first_byte_s, served_at_once=at_once, total=40 * MB)
    return _one(name, rules, (8 * _KIB,) * products)


def _slow_streams(share: float, each: float, total: float) -> Row:
    name = f"one stream in {round(1 / share)} slows to 1 % ({each:g} MB/s each, {total:g} MB/s in all)"
    rules = Rules(each=each * MB, total=total * MB, slow_share=share)
    return _one(name, rules, _equal(_IDEAL_S * total * MB, 25))


def _later_slower(each: float, later: float, total: float) -> Row:
    name = f"each connection {each:g} MB/s, later {later:g} MB/s, {total:g} MB/s in all"
    rules = Rules(each=each * MB, total=total * MB, later_s=_IDEAL_S / 3, later_each=later * MB)
    return _one(name, rules, _equal(_IDEAL_S * total * MB, 40))


def _limited(limit: int, each: float, *, refusal: int, linger_s: float = 0.0) -> Row:
    rules = Rules(each=each * MB, limit=limit, linger_s=linger_s, refusal=refusal)
    how = "the connection is closed" if rules.refusal == CLOSE else f"{rules.refusal} without Retry-After"
    linger = f", and a place is counted {rules.linger_s:g} s longer" if rules.linger_s else ""
    name = f"at most {limit} connections, else {how}{linger}"
    return _one(name, rules, _equal(_IDEAL_S * limit * each * MB, 10 * limit))


def _later_fewer(limit: int, later: int, each: float) -> Row:
    rules = Rules(each=each * MB, limit=limit, later_s=_IDEAL_S / 3, later_limit=later)
    size = (limit * _IDEAL_S / 3 + later * _IDEAL_S * 2 / 3) * each * MB
    return _one(f"at most {limit} connections, later at most {later}, else 429", rules, _equal(size, 6 * limit))


def _slow_host_first(slow: float, quick: float) -> Row:
    return Row(
        name=f"products of a slow host ({slow:g} MB/s) first in the manifest, then of a quick host ({quick:g} MB/s)",
        archives=(
            Archive(
                rules=Rules(each=slow / 4 * MB, total=slow * MB),
                sizes=_equal(_IDEAL_S * slow * MB, 20),
                host=HOSTS[1],
            ),
            Archive(
                rules=Rules(each=quick / 5 * MB, total=quick * MB),
                sizes=_equal(0.8 * _IDEAL_S * quick * MB, 20),
            ),
        ),
    )


def _one_large(each: float, connections: int) -> Row:
    total = each * connections
    name = f"one large product, each connection held to {each:g} MB/s, {total:g} MB/s in all"
    return _one(name, Rules(each=each * MB, total=total * MB), _equal(_IDEAL_S * total * MB, 1))


def _account(limit: int, each: float) -> Row:
    row = _limited(limit, each, refusal=429)
    return replace(row, name=f"an account that allows {limit} connections", account_limit=limit)


def _shared_link(best: int, total: float) -> Row:
    name = f"a shared link of {total:g} MB/s that suffers above {best} connections"
    rules = Rules(each=1.5 * total / best * MB, total=total * MB, suffers_above=best)
    return _one(name, rules, _equal(_IDEAL_S * total * MB, 40))


def _largest_last(each: float, total: float) -> Row:
    name = f"the largest product last, each connection held to {each:g} MB/s, {total:g} MB/s in all"
    size = _IDEAL_S * total * MB
    return _one(name, Rules(each=each * MB, total=total * MB), (*_equal(size / 2, 30), round(size / 2)))


def _request_rate(rate: float, burst: int, refusal: int) -> Row:
    name = f"limit_req {rate:g} r/s, burst {burst}, else {refusal}"
    rules = Rules(total=40 * MB, request_rate=rate, burst=burst, refusal=refusal)
    return _one(name, rules, (200_000,) * round(0.9 * _IDEAL_S * rate + burst + 1))


ROWS = (
    _each_held(0.5, 24, 32),
    _small(0.5, 32),
    _slow_streams(0.1, 1.5, 10),
    _later_slower(1, 0.25, 8),
    _limited(4, 2, refusal=429),
    _limited(4, 2, refusal=503),
    _limited(4, 2, refusal=CLOSE),
    _limited(4, 2, refusal=429, linger_s=0.3),
    _later_fewer(4, 2, 2),
    _slow_host_first(1, 10),
    _one_large(0.5, 16),
    _account(4, 2),
    _shared_link(8, 8),
    _largest_last(1, 8),
    _request_rate(5, 5, 503),
)
NGINX_ROWS = tuple(
    replace(row, name=f"nginx: {row.name}", server="nginx")
    for row in (_limited(4, 2, refusal=503), _limited(4, 2, refusal=429), _request_rate(5, 5, 503))
)
"""nginx has no rate over all connections, so each row limits connections or requests."""


def random_rows(count: int, seed: int) -> tuple[Row, ...]:
    """Return variations with numbers that depend on the seed alone; each kind comes once before any comes again."""
    draw = random.Random(seed)
    kinds: list[Callable[[random.Random], Row]] = []
    rows = []
    for _ in range(count):
        kinds = kinds or draw.sample(_KINDS, len(_KINDS))
        rows.append(kinds.pop()(draw))
    return tuple(rows)


_KINDS: tuple[Callable[[random.Random], Row], ...] = (
    lambda r: _each_held(r.choice((0.2, 0.3, 0.5, 0.8)), r.randint(6, 30), r.choice((20, 32, 60, 120))),
    lambda r: _small(r.choice((0.2, 0.4, 0.8)), r.choice((8, 16, 24, 40))),
    lambda r: _slow_streams(r.choice((0.05, 0.1, 0.2)), r.choice((0.8, 1.5, 3)), r.choice((6, 8, 12))),
    lambda r: _later_slower(r.choice((1, 2)), r.choice((0.25, 0.4)), r.choice((6, 8, 10))),
    lambda r: _limited(r.choice((1, 2, 3, 6, 10)), r.choice((0.8, 1.2)), refusal=r.choice((429, 503, CLOSE))),
    lambda r: _limited(r.choice((2, 3, 5, 8)), r.choice((0.8, 1.5)), refusal=429, linger_s=r.choice((0.1, 0.5, 1))),
    lambda r: _later_fewer(r.choice((5, 6, 8)), r.choice((1, 2, 4)), r.choice((0.8, 1.5))),
    lambda r: _slow_host_first(r.choice((0.5, 1, 2)), r.choice((6, 8, 12))),
    lambda r: _one_large(r.choice((0.4, 0.6, 1)), r.randint(3, 14)),
    lambda r: _account(r.choice((1, 2, 3, 6)), r.choice((0.8, 1.5))),
    lambda r: _shared_link(r.choice((2, 4, 6, 12)), r.choice((6, 8, 12))),
    lambda r: _largest_last(r.choice((0.5, 0.8, 1.5)), r.choice((6, 8, 12))),
    lambda r: _request_rate(r.choice((2, 4, 8)), r.choice((0, 3, 10)), r.choice((429, 503))),
)
