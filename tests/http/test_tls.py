"""Certificates are left unread only where and while that is asked for."""

from __future__ import annotations

import ssl
import threading

import pytest

from bulkdl.http.tls import skip_certificate_loading
from tests.tls import make_certificate


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A system that trusts one authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(make_certificate(tmp_path)))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))


def trusted():
    return len(ssl.create_default_context().get_ca_certs())


@pytest.mark.usefixtures("bundle")
def test_a_context_made_meanwhile_trusts_nobody_and_one_made_afterwards_whom_the_system_trusts():
    assert trusted() == 1
    with skip_certificate_loading():
        assert trusted() == 0
        assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED
    assert trusted() == 1


@pytest.mark.usefixtures("bundle")
def test_another_thread_reads_them_meanwhile():
    found = []
    with skip_certificate_loading():
        thread = threading.Thread(target=lambda: found.append(trusted()))
        thread.start()
        thread.join()
    assert found == [1]


@pytest.mark.usefixtures("bundle")
def test_an_import_that_fails_leaves_the_reading_as_it_was():
    before = dict(vars(ssl.SSLContext))
    with pytest.raises(ImportError), skip_certificate_loading():
        raise ImportError
    assert dict(vars(ssl.SSLContext)) == before
