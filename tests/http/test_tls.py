"""Certificate loading is skipped only in the requesting thread and only within the block."""

from __future__ import annotations

import ssl
import threading

import pytest

from bulkdl.http.tls import skip_certificate_loading
from tests.tls import make_certificate


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """Make the system trust one certificate authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(make_certificate(tmp_path)))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))


def count_trusted():
    return len(ssl.create_default_context().get_ca_certs())


@pytest.mark.usefixtures("bundle")
def test_a_context_made_within_the_block_trusts_nobody_and_a_later_one_trusts_as_usual():
    assert count_trusted() == 1
    with skip_certificate_loading():
        assert count_trusted() == 0
        assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED
    assert count_trusted() == 1


@pytest.mark.usefixtures("bundle")
def test_another_thread_loads_certificates_within_the_block():
    found = []
    with skip_certificate_loading():
        thread = threading.Thread(target=lambda: found.append(count_trusted()))
        thread.start()
        thread.join()
    assert found == [1]


@pytest.mark.usefixtures("bundle")
def test_a_failed_import_restores_the_loading():
    before = dict(vars(ssl.SSLContext))
    with pytest.raises(ImportError), skip_certificate_loading():
        raise ImportError
    assert dict(vars(ssl.SSLContext)) == before
