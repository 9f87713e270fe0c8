"""The data files of the provider presets have the expected types."""

from __future__ import annotations

import pytest

from bulkdl.auth import providers


@pytest.mark.parametrize("name", providers.names())
def test_every_note_of_a_preset_is_a_sentence(name):
    assert all(isinstance(note, str) for note in providers.load(name).notes)
