"""How a run's end becomes an exit code. Pure."""

from __future__ import annotations

__all__ = ["exit_code"]

_SIGNAL_BASE = 128


def exit_code(
    *,
    signal: int | None = None,
    machine: bool = False,
    account: bool = False,
    deadline: bool = False,
    failed: int = 0,
    pending: int = 0,
) -> int:
    """The contract's exit code; where several apply the order is 130/143, 4, 3, 5, 1.

    `signal`: the number of the signal that ended the run; `machine`: disk full, not writable or locked; `account`: one
    could do nothing at all; `deadline`: stopped by `until` or the window with work left. Products that are left for
    any other reason make 1, since 0 promises that all are in place.
    """
    if signal is not None:
        return _SIGNAL_BASE + signal
    decisions = ((machine, 4), (account, 3), (deadline, 5), (failed > 0 or pending > 0, 1))
    return next((code for applies, code in decisions if applies), 0)
