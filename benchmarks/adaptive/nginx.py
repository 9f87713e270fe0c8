"""nginx with `limit_conn` or `limit_req`, and what its access log says about a trial."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import TYPE_CHECKING

from benchmarks.process import free_port, serving
from benchmarks.servers import nginx_executable

from .content import names_of, part
from .log import Seen, mean_of_middle, over_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .rules import Row

__all__ = ["NginxSite", "is_installed", "nginx_site"]

_CONFIG = """\
daemon off;
worker_processes 1;
{user}
pid {prefix}/nginx.pid;
error_log {prefix}/error.log crit;
events {{ worker_connections 1024; }}
http {{
    default_type application/octet-stream;
    client_body_temp_path {prefix}/body;
    proxy_temp_path {prefix}/proxy;
    fastcgi_temp_path {prefix}/fastcgi;
    uwsgi_temp_path {prefix}/uwsgi;
    scgi_temp_path {prefix}/scgi;
    limit_conn_zone $server_name zone=connections:1m;
    {zone}
    limit_conn_status {status};
    limit_req_status {status};
    log_format line escape=json '{{"end":$msec,"took":$request_time,"status":$status,"sent":$body_bytes_sent,'
        '"connections":$connections_active}}';
    access_log {prefix}/access.log line;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        server_name archive;
        root {root};
        {limits}
    }}
}}
"""


class NginxSite:
    """A running nginx of one trial."""

    def __init__(self, port: int, log: Path) -> None:
        self.ports = [port]
        self._log = log

    def seen(self) -> Seen:
        """Return what the log says; requests that have not ended are not there."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []
        if not lines:
            return Seen()
        # The log has the time of day, the other figures have the monotonic clock.
        offset = time.monotonic() - time.time()
        served = [line for line in lines if line["status"] in (200, 206)]
        edges = [(line["end"] - line["took"], 1) for line in served] + [(line["end"], -1) for line in served]
        changes, count = [], 0
        for at, change in sorted(edges):
            count += change
            changes.append((at, count))
        return Seen(
            requests=len(lines),
            refused=sum(line["status"] in (429, 503) for line in lines),
            sent=sum(line["sent"] for line in served),
            first_request=min(line["end"] - line["took"] for line in lines) + offset,
            last_byte=max(line["end"] for line in lines) + offset,
            peak_connections=max(line["connections"] for line in lines),
            peak_requests=max((count for _, count in changes), default=0),
            mean_requests=mean_of_middle(changes),
            over_time=over_time(changes),
        )


def is_installed() -> bool:
    return nginx_executable() is not None


@contextlib.contextmanager
def nginx_site(row: Row, folder: Path) -> Iterator[NginxSite]:
    """Run nginx with the limits of a row with one archive."""
    prefix = folder / "nginx"
    root = prefix / "root"
    root.mkdir(parents=True)
    rules = row.archives[0].rules
    for name, size in zip(names_of(row)[0], row.archives[0].sizes, strict=True):
        with (root / name).open("wb") as out:
            while out.tell() < size:
                out.write(part(name, out.tell(), size))
    zone, limits = "", ""
    if rules.limit is not None:
        limits += f"limit_conn connections {rules.limit}; "
    if rules.each is not None:
        limits += f"limit_rate {rules.each:.0f}; "
    if rules.request_rate is not None:
        zone = f"limit_req_zone $server_name zone=requests:1m rate={rules.request_rate:g}r/s;"
        limits += f"limit_req zone=requests {f'burst={rules.burst} nodelay' if rules.burst else ''};"
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    facts = {"user": user, "zone": zone, "limits": limits, "status": rules.refusal, "port": port}
    config = prefix / "nginx.conf"
    config.write_text(_CONFIG.format(prefix=prefix, root=root, **facts))
    command = [nginx_executable() or "nginx", "-p", str(prefix), "-c", str(config), "-e", str(prefix / "error.log")]
    with serving(command, log=prefix / "output.log", ready=lambda: _listens(port), what="nginx"):
        yield NginxSite(port, prefix / "access.log")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
