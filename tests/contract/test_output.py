"""Outputs of the program that are slow, full, closed, or no regular files."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.program import PATIENCE_S, SECRETS, TOTP_SECRETS, Place, Site

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform == "win32", reason="POSIX descriptors")]

NUMBER = 12
PROGRAM = f"{sys.executable} -m bulkdl"


@pytest.fixture
def names(site: Site, place: Place) -> set[str]:
    items = [site.item() for _ in range(NUMBER)]
    place.write([site.entry(item) for item in items])
    return {item.name for item in items}


def shell(place: Place, command: str, **streams: Any) -> subprocess.Popen[bytes]:
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "SSL_CERT_FILE") if name in os.environ}
    return subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=place.cwd,
        env={**kept, **SECRETS, "HOME": str(place.home), "LANG": "C.UTF-8", "TERM": "xterm"},
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


@contextmanager
def full_pipe() -> Iterator[int]:
    """Yield the writing end of a pipe that nobody reads and that takes no further byte."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 1024)
    except BlockingIOError:
        os.set_blocking(writer, True)
    yield writer
    os.close(reader)
    os.close(writer)


@contextmanager
def stopped_terminal() -> Iterator[int]:
    """Yield a terminal that takes nothing, as after Ctrl-S."""
    import termios  # noqa: PLC0415 - POSIX only

    master, terminal = os.openpty()
    termios.tcflow(terminal, termios.TCOOFF)
    yield terminal
    os.close(master)
    os.close(terminal)


@pytest.mark.parametrize("mode", ["plain", "json", "none"])
@pytest.mark.parametrize("more", ["", "2>&1", "--json -vv"])
def test_a_pipe_that_nobody_reads_holds_up_neither_the_run_nor_its_end(place, names, mode, more):
    with full_pipe() as pipe:
        out = pipe if more == "2>&1" and mode != "none" else subprocess.DEVNULL
        process = shell(place, f"exec {PROGRAM} run m.yaml --progress {mode} {more}", stdout=out, stderr=pipe)
        assert process.wait(PATIENCE_S) == 0
    assert place.names() == names


@pytest.mark.parametrize("more", ["", "-vv", "--progress plain"])
def test_a_terminal_that_takes_nothing_holds_up_neither_the_run_nor_its_end(place, names, more):
    with stopped_terminal() as terminal:
        process = shell(place, f"exec {PROGRAM} run m.yaml {more}", stdin=terminal, stdout=terminal, stderr=terminal)
        assert process.wait(PATIENCE_S) == 0
    assert place.names() == names


def test_a_log_that_nobody_reads_holds_up_neither_the_run_nor_its_end(place, names):
    os.mkfifo(place.cwd / "log")
    done = place.run("--log-file", "log")
    assert done.code == 0
    assert place.names() == names
    assert (place.cwd / "log").is_fifo()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("more", ["", "--json", "--json --report r.html"])
def test_a_summary_that_cannot_be_written_is_said_and_is_a_fault_of_this_machine(place, names, more):
    process = shell(place, f"exec {PROGRAM} run m.yaml {more} > /dev/full")
    err = process.communicate(timeout=PATIENCE_S)[1].decode()
    assert process.returncode == 4
    assert "Traceback" not in err
    assert f"standard output cannot be written: No space left on device. {NUMBER} of {NUMBER} products in place" in err
    assert place.names() == names
    assert (place.cwd / "r.html").exists() == ("--report" in more)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("command", ["--version", "--help", "schema", "providers", "check m.yaml", "status m.yaml"])
def test_every_command_says_that_its_output_cannot_be_written(place, names, command):
    process = shell(place, f"exec {PROGRAM} {command} > /dev/full")
    err = process.communicate(timeout=PATIENCE_S)[1].decode()
    assert process.returncode == 4
    assert "bulkdl: standard output cannot be written: No space left on device.\n" in err
    assert "Exception ignored" not in err


def test_a_reader_who_has_seen_enough_is_no_fault(place, names):
    process = shell(place, f"{{ {PROGRAM} run m.yaml -v; echo $? > code; }} | head -1")
    err = process.communicate(timeout=PATIENCE_S)[1].decode()
    assert "Traceback" not in err
    assert "BrokenPipe" not in err
    assert (place.cwd / "code").read_text() == "0\n"
    assert place.names() == names


def test_a_pipe_that_does_not_block_gets_the_whole_summary(place, names):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    place.write([{"url": f"http://127.0.0.1:9/{n}.bin?{n}", "file": f"{n}.bin"} for n in range(1000)], name="n.yaml")
    process = shell(place, f"exec {PROGRAM} status n.yaml --json", stdout=writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        text = stream.read()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert len(json.loads(text)["items"]) == 1000


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "<&- 2>&-"])
@pytest.mark.parametrize("mode", ["auto", "json"])
def test_a_run_needs_no_standard_stream(place, names, closed, mode):
    process = shell(place, f"exec {PROGRAM} run m.yaml --progress {mode} --log-file log {closed}")
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert place.names() == names
    assert "internal error" not in (place.cwd / "log").read_text()


@pytest.mark.parametrize("option", ["--report", "--log-file"])
def test_an_output_that_is_a_fifo_is_written_to(place, names, option):
    fifo, read = place.cwd / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    assert place.run(option, "fifo").code == 0
    reader.join(PATIENCE_S)
    assert names <= {name for name in names if name in read[0]} or "products in place" in read[0]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_generated_manifest_may_go_to_standard_output_by_name(place):
    place.text("https://archive.example.org/a.zip\n", name="urls")
    process = shell(place, f"exec {PROGRAM} manifest urls urls -o /dev/stdout")
    out = process.communicate(timeout=PATIENCE_S)[0].decode()
    assert process.returncode == 0
    assert "https://archive.example.org/a.zip" in out


def test_a_log_on_standard_output_and_the_summary_do_not_overwrite_each_other(place, names):
    process = shell(place, f"exec {PROGRAM} run m.yaml --log-file /dev/stdout > out")
    process.communicate(timeout=PATIENCE_S)
    text = (place.cwd / "out").read_text()
    assert process.returncode == 0
    assert f"All {NUMBER} products are in place." in text
    assert text.count("complete, ") == NUMBER


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("where", ["2> /dev/full", "> /dev/null 2>&1 --log-file /dev/full"])
def test_progress_and_log_on_a_full_disk_end_nothing(place, names, where):
    process = shell(place, f"exec {PROGRAM} run m.yaml {where}")
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert place.names() == names


def test_the_stop_of_an_account_is_told_once_on_one_terminal(site: Site, place: Place):
    place.write([site.entry(site.item("header-"), account="own")], accounts={"own": site.oidc(password="${WRONG}")})
    process = shell(place, f"WRONG=wrong exec {PROGRAM} run m.yaml 2>&1")
    text = process.communicate(timeout=PATIENCE_S)[0].decode()
    assert process.returncode == 3
    assert text.count("Invalid user credentials") == 1, text


NO_HOME = """
import pwd, sys
def unknown(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
from bulkdl.cli.main import main
sys.exit(main())
"""


def test_a_user_without_home_and_passwd_entry_can_log_in_and_download(site: Site, place: Place):
    item = site.item("query-")
    for name, user in {"m.yaml": "tina", "other.yaml": "ines"}.items():  # a code that another has used is waited for
        accounts = {"own": site.oidc(user, totp_secret=f"${{{user.upper()}_TOTP}}", token_in="query")}
        place.write([site.entry(item, account="own")], name=name, accounts=accounts)
    place.text(NO_HOME, name="program.py")
    (place.cwd / "tmp").mkdir()
    command = f"unset HOME; INES_TOTP='{TOTP_SECRETS['ines']}' TMPDIR=$PWD/tmp exec {sys.executable} program.py"
    for words in ("check m.yaml", "login other.yaml", "run m.yaml", "status m.yaml"):
        process = shell(place, f"{command} {words}")
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, out + err
    assert place.get(item.name) == item.read()
