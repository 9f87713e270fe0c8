"""Exit codes: every combination of causes, compared with the contract's order."""

from __future__ import annotations

from itertools import product

import pytest

from bulkdl.core.exit_codes import exit_code


@pytest.mark.parametrize("deadline", [False, True])
@pytest.mark.parametrize("account", [False, True])
@pytest.mark.parametrize("machine", [False, True])
@pytest.mark.parametrize("signal", [None, 2, 15])
def test_the_order_is_signal_machine_account_deadline_failed(signal, machine, account, deadline):
    applies = {130: signal == 2, 143: signal == 15, 4: machine, 3: account, 5: deadline}
    for failed, pending in product((0, 1, 300), repeat=2):
        expected = next((code for code, holds in applies.items() if holds), 1 if failed or pending else 0)
        found = exit_code(
            signal=signal, machine=machine, account=account, deadline=deadline, failed=failed, pending=pending
        )
        assert found == expected


def test_a_run_with_everything_in_place_ends_with_0():
    assert exit_code() == 0
