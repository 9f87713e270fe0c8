"""Adaptive limit of connections to one host: more, as long as more of them bring more throughput. Pure.

Some servers throttle each connection, so that many connections bring more than few. On a shared link more connections
only take bandwidth from others. A run therefore begins with few (16, or as many as there are workers) and may reach
128.

While every slot is taken and products want more, `next_limit` starts a trial with two or four times as many. It does so
if new connections start as fast as the first few did on a near host, which shows that the server throttles
each one, or if there was no hint for 2 s. The trial succeeds if the total rate rises clearly. Otherwise the added
connections are closed and the next trial waits for a minute, then two, up to an hour. Connections above 32 MiB/s each
give no reason for a trial, and a refused connection ends one. Limits of an account, of a preset or of `segments` are
never exceeded. `throughput` measures, `connection_limiter` counts slots and calls back, and
`bulkdl.transfer.segment_scaling` decides how many connections a product opens.

A busy machine measures late and is slow to open connections, which must not count against the host. Therefore the first
bytes are compared as well as the rates, and the better ratio counts. The round trip comes from the system (`TCP_INFO`)
if possible. Only the last second of a long measurement counts, and no trial fails before half of the added connections
have started, or 6 s have passed.
"""

from __future__ import annotations

from dataclasses import replace

from bulkdl.core.fast_dataclass import dataclass

__all__ = [
    "CAP",
    "COOLDOWN_S",
    "FAST",
    "MAX_COOLDOWN_S",
    "MAX_TRIAL_S",
    "TRIAL_S",
    "ConcurrencyLimit",
    "ThroughputSample",
    "next_limit",
    "on_refused",
]

CAP = 128
"""Limit of connections to one host, whatever the throughput."""
MIN_GAIN, MIN_GAIN_LIKE_FIRST = 0.5, 0.15
"""Minimum gain per added connection, relative to the old average.

It is 50 % by default, and 15 % if new connections start as fast as the first ones.
"""
MAX_STEADY_RISE = 2.5
"""If the second half of a sample brings more than this times the first, connections are still accelerating."""
LIKE, UNLIKE = 0.8, 0.65
"""Ratio of the first rate of a new connection to that of the first ones.

From `LIKE` on the server throttles each connection; up to `UNLIKE` the connections share one bottleneck.
"""
FAST = 32 * 1024 * 1024
"""Bytes per second of one connection from which no trial starts: more connections would not help."""
MIN_AGAINST_S = 0.5
"""Seconds of measurement before a sample counts against more connections, since this machine may have been busy."""
MIN_TOTAL_RATE_S = 0.15
"""Seconds of measurement before the total rate alone counts for more connections, since bytes arrive in bursts."""
TRIAL_S = 2.0
"""Seconds after which a trial without a gain fails, and after which a trial starts without a hint."""
MAX_TRIAL_S = 6.0
"""Seconds after which a trial fails even if most added connections have not started: opening them takes long."""
COOLDOWN_S = 60.0
MAX_COOLDOWN_S = 3600.0
"""Cooldown after a failed trial: `COOLDOWN_S` seconds, doubled after each further failure, up to `MAX_COOLDOWN_S`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyLimit:
    """Connection limit for one host."""

    base: int
    """Limit at the beginning, before any measurement."""
    proven: int
    """Limit that a successful trial confirmed; `base` at first."""
    allowed: int
    """Current limit: more than `proven` during a trial."""
    rate: float = 0.0
    """Total bytes per second of the proven number of connections before the trial."""
    no_trial_until: float = 0.0
    """No trial before this time, in seconds of the run's clock."""
    cooldown_s: float = COOLDOWN_S
    """Cooldown before the next trial in seconds; doubles after each failure."""

    @classmethod
    def of(cls, base: int) -> ConcurrencyLimit:
        return cls(base=base, proven=base, allowed=base)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputSample:
    """Measurement of a host while every slot is taken and products want more."""

    now: float
    duration_s: float
    """Duration of the measurement in seconds."""
    rate: float
    """Bytes per second of all connections during the measurement."""
    rise: float
    """Bytes in the second half of the measurement relative to the first half."""
    started: bool = True
    """True if enough of the added connections have started to receive."""
    first_rate: float | None = None
    """First rate of a connection (bytes per second) with clearly fewer connections open; None: unknown or not
    conclusive."""
    joined_rate: float | None = None
    """First rate of a connection added since the last change (bytes per second), corrected for late measurement."""


def next_limit(limit: ConcurrencyLimit, sample: ThroughputSample, *, cap: int = CAP) -> ConcurrencyLimit:
    """Return the new limit: continue a trial, end it as a success or a failure, or start one."""
    steady = sample.rise <= MAX_STEADY_RISE
    likeness = None if not sample.first_rate or sample.joined_rate is None else sample.joined_rate / sample.first_rate
    hinted = likeness is not None and likeness >= LIKE
    factor = 4 if hinted else 2
    if limit.allowed > limit.proven:
        gain = MIN_GAIN_LIKE_FIRST if hinted else MIN_GAIN
        needed = limit.rate * (1 + gain * (limit.allowed / limit.proven - 1))
        reliable = hinted or (steady and sample.duration_s >= MIN_TOTAL_RATE_S)
        if reliable and (_second_half_rate(sample) if hinted else sample.rate) >= needed:
            return _start_trial(replace(limit, proven=limit.allowed, cooldown_s=COOLDOWN_S), sample, factor, cap)
        return _end_trial(limit, sample.now) if sample.duration_s >= _trial_time_s(sample) else limit
    fast = max(sample.first_rate or 0.0, sample.rate / limit.allowed) >= FAST
    if sample.now < limit.no_trial_until or limit.proven >= cap or fast:
        return limit
    if likeness is not None and likeness <= UNLIKE and sample.duration_s >= MIN_AGAINST_S:
        return _end_trial(limit, sample.now)
    return _start_trial(limit, sample, factor, cap) if hinted or sample.duration_s >= TRIAL_S else limit


def _second_half_rate(sample: ThroughputSample) -> float:
    """Return the rate of the second half; during the first half the added connections were still opening."""
    return 2 * sample.rate * (1 - 1 / (1 + sample.rise))


def _trial_time_s(sample: ThroughputSample) -> float:
    return TRIAL_S if sample.started else MAX_TRIAL_S


def on_refused(limit: ConcurrencyLimit, now: float) -> ConcurrencyLimit:
    """Return the limit after the host refused a connection: end the trial, or halve the proven limit."""
    kept = limit.proven if limit.allowed > limit.proven else limit.proven // 2
    return _end_trial(replace(limit, proven=max(limit.base, kept)), now)


def _start_trial(limit: ConcurrencyLimit, sample: ThroughputSample, factor: int, cap: int) -> ConcurrencyLimit:
    return replace(
        limit,
        allowed=max(limit.proven, min(factor * limit.proven, cap)),
        rate=max(sample.rate, _second_half_rate(sample)),
    )


def _end_trial(limit: ConcurrencyLimit, now: float) -> ConcurrencyLimit:
    return replace(
        limit,
        allowed=limit.proven,
        no_trial_until=now + limit.cooldown_s,
        cooldown_s=min(2 * limit.cooldown_s, MAX_COOLDOWN_S),
    )
