"""Helpers that read a manifest from text and return its problems as plain lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bulkdl.core.errors import ManifestError
from bulkdl.manifest.loader import load_text

if TYPE_CHECKING:
    from bulkdl.core.models import Manifest

BASE = Path(__file__).resolve().parent


def read(text: str | bytes, **environ: str) -> Manifest:
    return load_text(text, name="m.yaml", base=BASE, environ=environ)


def problems(text: str | bytes, **environ: str) -> list[str]:
    """Return the lines of the `ManifestError` that reading raises."""
    with pytest.raises(ManifestError) as caught:
        read(text, **environ)
    return caught.value.lines()


def problem(text: str | bytes, **environ: str) -> str:
    """Return the only line of the `ManifestError`."""
    lines = problems(text, **environ)
    assert len(lines) == 1, lines
    return lines[0]
