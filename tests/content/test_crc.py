"""The CRCs against their published check values, and in pieces."""

from __future__ import annotations

import pytest

from bulkdl.content.crc import CRCS, computable
from bulkdl.content.hashing import hasher

CHECK_VALUES = {"crc32": "cbf43926", "crc32c": "e3069283", "crc64nvme": "ae8b14860a799888"}
"""CRC of "123456789" in the catalogue of parametrised CRC algorithms."""


@pytest.mark.parametrize("algorithm", sorted(CRCS))
@pytest.mark.parametrize("at", range(10))
def test_a_crc_has_its_check_value_in_one_piece_and_in_two(algorithm, at):
    crc = hasher(algorithm)
    crc.update(b"123456789"[:at])
    crc.update(memoryview(b"123456789")[at:])
    assert crc.hexdigest() == CHECK_VALUES[algorithm]


def test_only_the_crc_of_the_standard_library_is_computed_of_large_products():
    assert [name for name in sorted(CRCS) if computable(name, 1 << 40)] == ["crc32"]
    assert all(computable(name, 1 << 20) for name in CRCS)
