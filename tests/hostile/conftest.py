"""Fixtures for all hostile archives."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip loading the system's certificates: no archive here uses TLS, and loading dominates a small run."""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
