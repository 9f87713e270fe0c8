"""Why a TLS handshake failed: which cause, with the dates and names of the certificate."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import warnings
from contextlib import contextmanager, suppress

import pytest

from bulkdl.protocol.certificate import read_certificate
from tests.servers import reply
from tests.tls import TlsServer, server_context

x509 = pytest.importorskip("cryptography.x509")
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402

TODAY = dt.datetime.now(dt.UTC).replace(microsecond=0)
DAY = dt.timedelta(days=1)


def name(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


class Made:
    """A certificate with its key."""

    def __init__(self, subject, *, issuer=None, ca=False, names=("127.0.0.1",), begins=-DAY, ends=DAY):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = name(subject)
        alternatives = []
        for each in names:
            try:
                alternatives.append(x509.IPAddress(ipaddress.ip_address(each)))
            except ValueError:
                alternatives.append(x509.DNSName(each))
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(issuer.subject if issuer else self.subject)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(TODAY + begins)
            .not_valid_after(TODAY + ends)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign((issuer or self).key, hashes.SHA256())
        )

    def pem(self):
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self):
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


ROOT = Made("Test Root", ca=True)
MIDDLE = Made("Test Middle", issuer=ROOT, ca=True)
OTHER = Made("Other Root", ca=True)


def shown(moment):
    return f"{moment:%Y-%m-%d %H:%M}"


CASES = {
    "expired": (
        [Made("a", issuer=ROOT, begins=-9 * DAY, ends=-2 * DAY)],
        f"it has expired (valid from {shown(TODAY - 9 * DAY)} to {shown(TODAY - 2 * DAY)} UTC)",
    ),
    "not yet valid": (
        [Made("a", issuer=ROOT, begins=2 * DAY, ends=9 * DAY)],
        f"it is not valid yet (valid from {shown(TODAY + 2 * DAY)} to {shown(TODAY + 9 * DAY)} UTC)",
    ),
    "self-signed": ([Made("a")], "it is a self-signed certificate"),
    "wrong host": (
        [Made("a", issuer=ROOT, names=("archive.example.org", "b.example.org", "10.0.0.1", "c.example.org"))],
        "(it is for archive.example.org, b.example.org, 10.0.0.1 and 1 more)",
    ),
    "untrusted CA": (
        [Made("a", issuer=OTHER), OTHER],
        "it is signed by a CA that this machine does not trust (issued by Other Root)",
    ),
    "unknown CA": ([Made("a", issuer=OTHER)], "does not trust its CA"),
    "missing intermediate": (
        [Made("a", issuer=MIDDLE)],
        "the server sends no intermediate certificate for it (issued by Test Middle)",
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("command", ["run", "check --remote"])
def test_a_certificate_is_refused_with_its_cause(stage, place, tmp_path, case, command):
    chain, expected = CASES[case]
    (tmp_path / "server.pem").write_bytes(chain[0].key_pem() + b"".join(each.pem() for each in chain))
    (tmp_path / "root.pem").write_bytes(ROOT.pem())
    with stage.running(TlsServer(tmp_path / "server.pem", reply(200, b"x"))) as server:
        manifest = place.write([server.url("/x.bin")], settings={"ca_file": str(tmp_path / "root.pem")})
        name, *flags = command.split()
        done = place(name, manifest, *flags)
        assert not server.log
        where = f"127.0.0.1:{server.port}"
    assert done.code == 1
    assert f"the TLS certificate of {where} could not be verified" in done.out + done.err
    assert expected in done.out + done.err


def test_the_right_chain_is_accepted(stage, place, tmp_path):
    (tmp_path / "server.pem").write_bytes(Made("a", issuer=MIDDLE).key_pem())
    leaf = Made("a", issuer=MIDDLE)
    (tmp_path / "server.pem").write_bytes(leaf.key_pem() + leaf.pem() + MIDDLE.pem())
    (tmp_path / "root.pem").write_bytes(ROOT.pem())
    with stage.running(TlsServer(tmp_path / "server.pem", reply(200, b"x"))) as server:
        place.write([server.url("/x.bin")], settings={"ca_file": str(tmp_path / "root.pem")})
        assert place.run().code == 0


def test_a_login_names_the_cause_too(stage, site, place, tmp_path):
    leaf = Made("a", issuer=ROOT, begins=-9 * DAY, ends=-2 * DAY)
    (tmp_path / "server.pem").write_bytes(leaf.key_pem() + leaf.pem())
    (tmp_path / "root.pem").write_bytes(ROOT.pem())
    with stage.running(TlsServer(tmp_path / "server.pem", reply(200, b"{}"))) as server:
        account = site.oidc(hosts=["127.0.0.1"], token_url=server.url("/token"))
        settings = {"ca_file": str(tmp_path / "root.pem")}
        place.write([site.entry(site.item("header-"), account="jo")], accounts={"jo": account}, settings=settings)
        done = place.run()
    assert done.code == 3
    assert "could not be verified: it has expired" in done.err


def test_https_to_a_port_for_http_is_named_after_a_second_look(place):
    def serve():
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        place.write([f"https://127.0.0.1:{listener.getsockname()[1]}/x.bin"])
        done = place.run()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)
    assert done.failures["x.bin"]["attempts"] == 2
    assert "probably it speaks http, not https" in done.failures["x.bin"]["reason"]


@contextmanager
def openssl_server(tmp_path, change):
    """A server as most are: it sends the alert of a failed handshake, which asyncio's does not."""
    leaf = Made("a", issuer=ROOT)
    (tmp_path / "server.pem").write_bytes(leaf.key_pem() + leaf.pem())
    (tmp_path / "root.pem").write_bytes(ROOT.pem())
    context = server_context(tmp_path / "server.pem")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        change(context, tmp_path / "root.pem")

    def serve():
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    # Without a copy, the end of the handshake would close the socket, and a reset overtake the alert.
                    with suppress(OSError), context.wrap_socket(connection.dup(), server_side=True) as secured:
                        secured.recv(1000)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1000):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)


def wants_certificate(context, authority):
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority)


def wants_certificate_in_12(context, authority):
    wants_certificate(context, authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2


def speaks_old_versions(context, _authority):
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1


@pytest.mark.parametrize(
    ("change", "scheme", "expected"),
    [
        (wants_certificate, "https", "wants a client certificate, which bulkdl cannot send"),
        (wants_certificate_in_12, "https", "wants a client certificate, which bulkdl cannot send"),
        (speaks_old_versions, "https", "versions of TLS"),
        (lambda *_: None, "http", "write https:// in the URL"),
    ],
    ids=["client certificate", "client certificate, TLS 1.2", "old versions", "http"],
)
def test_the_alert_of_a_server_is_named(place, tmp_path, change, scheme, expected):
    with openssl_server(tmp_path, change) as address:
        place.write([f"{scheme}://{address}/x.bin"], settings={"ca_file": str(tmp_path / "root.pem")})
        done = place.run("--retries", "1")
    assert expected in done.failures["x.bin"]["reason"]


@pytest.mark.parametrize("damage", [b"", b"\x30", b"\x30\x82\xff\xff", b"\x30\x03\x02\x01\x01", b"x" * 100])
def test_what_is_no_certificate_has_no_fields(damage):
    assert read_certificate(damage) is None
