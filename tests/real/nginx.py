"""A real nginx for tests: it serves a folder, the token checker checks every request, its log counts every byte."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .processes import free_port, spawn, stop, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["Access", "Nginx", "executable"]

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_CONFIG = """\
daemon off;
worker_processes 2;
{user}
pid {prefix}/nginx.pid;
error_log {prefix}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    default_type application/octet-stream;
    types {{ application/zip zip; image/tiff tif; }}
    sendfile on;
    tcp_nopush on;
    etag on;
    log_not_found off;
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    log_format line escape=json '{{"method":"$request_method","path":"$uri","status":$status,'
        '"sent":$body_bytes_sent,"range":"$http_range","if_range":"$http_if_range","ahead":"$pipe"}}';
    access_log {prefix}/access.log line;
    upstream checker {{ server 127.0.0.1:{checker}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{port};
        root {root};
        location / {{ auth_request /_check; }}
        location /open/ {{ }}
        location = /_status {{ stub_status; access_log off; }}
        location = /_check {{
            internal;
            proxy_pass http://checker/check;
            proxy_http_version 1.1;
            proxy_pass_request_body off;
            proxy_set_header Connection "";
            proxy_set_header Content-Length "";
            proxy_set_header X-Original-URI $request_uri;
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Access:
    """One finished request in nginx's log. The query is not logged, because it may contain a token."""

    method: str
    path: str
    """Percent-decoded."""
    status: int
    sent: int
    """Body bytes that nginx sent, error pages included."""
    range: str
    if_range: str
    ahead: str
    """`p` if the request was pipelined (sent before the previous response), else `.`."""


def executable() -> str | None:
    """Return the path of nginx, even if the system's programs are not on the user's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


class Nginx:
    """nginx and the checker on 127.0.0.1; `with Nginx(folder, root=..., issuers=...) as nginx:` runs both.

    `root/REALM/...` needs a token of that realm, `root/open/...` needs none.
    """

    def __init__(self, folder: Path, *, root: Path, issuers: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.host = f"127.0.0.1:{self.port}"
        self._prefix = folder / "nginx"
        self._root = root
        self._issuers = issuers
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._prefix.mkdir()
        try:
            self._checker = self._start_checker()
            self.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def requests(self) -> list[Access]:
        """Return every request so far, interrupted ones included, after nginx has ended all responses."""
        self._settle()
        log = self._prefix / "access.log"
        return [Access(**json.loads(line)) for line in log.read_text().splitlines()]

    def pipelined(self) -> int:
        """Return the number of pipelined requests so far."""
        return sum(access.ahead == "p" for access in self.requests())

    def sent(self) -> int:
        """Return the bytes of products (200 and 206) that nginx sent so far."""
        return sum(access.sent for access in self.requests() if access.status in (200, 206))

    def errors(self) -> str:
        """Return the text of nginx's error log."""
        return (self._prefix / "error.log").read_text()

    def start(self) -> None:
        """Start nginx alone, and return when it answers."""
        config = self._prefix / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(
            _CONFIG.format(user=user, prefix=self._prefix, checker=self._checker, port=self.port, root=self._root)
        )
        log = self._prefix / "output.log"
        errors = self._prefix / "error.log"
        process = spawn([executable() or "nginx", "-p", self._prefix, "-c", config, "-e", errors], log=log)
        self._processes.append(process)
        until(lambda: self._busy() is not None, process, what="nginx", log=errors, timeout_s=30)

    def stop(self) -> None:
        """Stop nginx alone: it cuts its connections, and refuses new ones until `start`."""
        stop(self._processes.pop())

    def _start_checker(self) -> int:
        log = self._prefix / "checker.log"
        realms = [f"{realm}={issuer}" for realm, issuer in self._issuers.items()]
        process = spawn([sys.executable, "-P", str(Path(__file__).with_name("checker.py")), *realms], log=log)
        self._processes.append(process)
        until(lambda: log.read_text().strip().isdigit(), process, what="the token checker", log=log, timeout_s=60)
        return int(log.read_text())

    def _busy(self) -> int | None:
        """Return the number of other requests in progress, or None if nginx does not answer."""
        try:
            with _direct.open(f"{self.url}/_status", timeout=10) as response:
                found = re.search(r"Reading: (\d+) Writing: (\d+)", response.read().decode())
        except (OSError, urllib.error.URLError):
            return None
        return None if found is None else int(found[1]) + int(found[2]) - 1

    def _settle(self) -> None:
        deadline = time.monotonic() + 30
        while self._busy() != 0:
            if time.monotonic() > deadline:
                raise RuntimeError("nginx was still sending after 30 s")

    def _stop(self) -> None:
        while self._processes:
            stop(self._processes.pop())
