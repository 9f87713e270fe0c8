"""Map the end of a run to an exit code. Pure."""

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
    """Return the exit code of a run; if several apply, the order is 130/143, 4, 3, 5, 1.

    `signal`: number of the signal that ended the run; `machine`: disk full, destination not writable or locked;
    `account`: an account could not be used at all; `deadline`: stopped by `until`, the window or an account's quota with work left.
    Products pending for any other reason give 1, since 0 means that every product is in place.
    """
    if signal is not None:
        return _SIGNAL_BASE + signal
    decisions = ((machine, 4), (account, 3), (deadline, 5), (failed > 0 or pending > 0, 1))
    return next((code for applies, code in decisions if applies), 0)
