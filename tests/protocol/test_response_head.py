"""Snapshot of the class of every status."""

from __future__ import annotations

import pytest

from bulkdl.protocol.response_head import StatusClass, classify

SNAPSHOT = {
    StatusClass.BODY: {200, 206},
    StatusClass.PREPARING: {202},
    StatusClass.REDIRECT: {301, 302, 303, 307, 308},
    StatusClass.CREDENTIAL: {401, 403},
    StatusClass.RANGE: {416},
    StatusClass.LATER: {408, 409, 421, 423, 425, 429, *range(500, 600)} - {501, 505, 506, 508, 510},
}


def test_every_status_has_the_class_of_the_snapshot():
    named = {status: group for group, statuses in SNAPSHOT.items() for status in statuses}
    for status in range(100, 600):
        assert classify(status) is named.get(status, StatusClass.NEVER), status


@pytest.mark.parametrize("status", [-1, 0, 99, 600, 999])
def test_an_invalid_status_is_never_retried(status):
    assert classify(status) is StatusClass.NEVER
