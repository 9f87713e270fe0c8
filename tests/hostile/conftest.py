"""What every hostile archive here is met with."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """No archive here speaks TLS; reading the system's hundreds of certificates is most of what a small run costs."""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
