"""nginx on loopback, over HTTP and over HTTPS with a temporary certificate authority."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .process import free_port, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DELAY_S", "THROTTLE", "Place", "Server", "nginx", "nginx_executable"]

DELAY_S = 0.05
"""Delay before the first byte at `Place.LATE` (s)."""
THROTTLE = 8 * 1024 * 1024
"""Rate of each connection at `Place.SLOW` (bytes/s)."""

_CONFIG = """\
daemon off;
worker_processes auto;
worker_rlimit_nofile 65536;
{user}
pid {prefix}/nginx.pid;
error_log {prefix}/error.log crit;
events {{ worker_connections 4096; }}
http {{
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 75s;
    keepalive_requests 100000000;
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    access_log off;
    upstream late {{ server 127.0.0.1:{late}; keepalive 256; }}
    server {{
        listen 127.0.0.1:{http} backlog=4096;
        {tls}
        location /plain/ {{ alias {root}/; }}
        location /slow/ {{ alias {root}/; limit_rate {throttle}; }}
        location /late/ {{ alias {root}/; auth_request /_late; }}
        location /counted/ {{ alias {root}/; access_log {prefix}/counted.log; }}
        location = /_late {{
            internal;
            proxy_pass http://late;
            proxy_http_version 1.1;
            proxy_pass_request_body off;
            proxy_pass_request_headers off;
            proxy_set_header Connection "";
            proxy_set_header Content-Length "";
        }}
    }}
}}
"""
_TLS = """listen 127.0.0.1:{https} ssl backlog=4096;
        ssl_protocols TLSv1.3;
        ssl_certificate {prefix}/server.pem;
        ssl_certificate_key {prefix}/server.key;"""

_OPENSSL = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Place:
    """Paths to the same files, each served in its own way."""

    PLAIN = "plain"
    SLOW = "slow"
    LATE = "late"
    COUNTED = "counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running nginx."""

    http_port: int
    https_port: int | None
    """None: there is no openssl to make a certificate."""
    ca_file: Path
    counted: Path

    def url(self, scheme: str, place: str, folder: str) -> str:
        """Return the URL of a folder of files, without a slash at its end."""
        port = self.https_port if scheme == "https" else self.http_port
        return f"{scheme}://127.0.0.1:{port}/{place}/{folder}"

    def requests(self) -> int:
        """Return the number of requests to `Place.COUNTED` so far."""
        return len(self.counted.read_bytes().splitlines()) if self.counted.exists() else 0


def nginx_executable() -> str | None:
    """Return the path of nginx, even if the system's programs are not in the user's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def nginx(folder: Path, *, root: Path) -> Iterator[Server]:
    """Run nginx and the server that delays it, for as long as the block lasts. Raise `RuntimeError` without nginx."""
    program = nginx_executable()
    if program is None:
        raise RuntimeError("nginx is not installed: it serves the files (Debian: apt install nginx-light)")
    prefix = folder / "nginx"
    prefix.mkdir()
    tls = _certificates(prefix)
    http, https, late = free_port(), free_port(), free_port()
    config = _CONFIG.format(
        user="user root;" if os.geteuid() == 0 else "",
        prefix=prefix,
        root=root,
        http=http,
        late=late,
        throttle=THROTTLE,
        tls=_TLS.format(https=https, prefix=prefix) if tls else "",
    )
    (prefix / "nginx.conf").write_text(config)
    server = Server(
        http_port=http,
        https_port=https if tls else None,
        ca_file=prefix / "ca.pem",
        counted=prefix / "counted.log",
    )
    script = str(Path(__file__).with_name("late.py"))
    command = [program, "-p", str(prefix), "-c", str(prefix / "nginx.conf"), "-e", str(prefix / "error.log")]
    with (
        serving(
            [sys.executable, "-I", script, str(late), str(DELAY_S)],
            log=prefix / "late.log",
            ready=lambda: _listens(late),
            what="the server that waits",
        ),
        serving(command, log=prefix / "output.log", ready=lambda: _listens(http), what="nginx"),
    ):
        yield server


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _certificates(prefix: Path) -> bool:
    """Make a certificate authority and a certificate for 127.0.0.1; return False without openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return False
    config = prefix / "openssl.cnf"
    config.write_text(_OPENSSL)
    new = [openssl, "req", "-x509", "-config", str(config), "-newkey", "ec"]
    new += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "7"]
    ca, server = prefix / "ca", prefix / "server"
    authority = ["-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", "/CN=benchmarks", "-extensions", "authority"]
    leaf = ["-keyout", f"{server}.key", "-out", f"{server}.pem", "-subj", "/CN=127.0.0.1", "-extensions", "server"]
    for command in ([*new, *authority], [*new, *leaf, "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"openssl could not make a certificate: {done.stderr.strip()[-300:]}")
    return True
