"""Prompts on a real terminal: what is echoed, and what ends them."""

from __future__ import annotations

import base64
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.contract.program import Stage
from tests.servers import RawRequest, RawServer, Wire, ranges, reply

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

fcntl = pytest.importorskip("fcntl")
pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")

BODY = b"product " * 100
PATIENCE_S = 60.0


class Terminal:
    """The program with a terminal of its own, as its controlling one."""

    def __init__(self, folder: Path, *arguments: str, piped: bytes | None = None) -> None:
        """`piped`: the bytes on standard input, and standard error is a pipe too; None: both are the terminal."""
        self._master, slave = pty.openpty()
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bulkdl", *arguments],
            cwd=folder,
            env={**kept, "HOME": str(folder), "LANG": "C.UTF-8", "TERM": "xterm", "BULKDL_STATE_DIR": str(folder)},
            stdin=slave if piped is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=slave if piped is None else subprocess.PIPE,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one system call
        )
        self.settings = termios.tcgetattr(slave)
        self._slave = slave
        self.screen = ""
        if piped is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(piped)
            self.process.stdin.close()
        os.set_blocking(self._master, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        os.close(self._master)
        os.close(self._slave)

    def until(self, text: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while text not in self._read():
            assert time.monotonic() < end, self.screen
            assert self.process.poll() is None or text in self._read(), self.screen
            select.select([self._master], [], [], 0.05)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def ended(self) -> int:
        end = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            self._read()
            assert time.monotonic() < end, self.screen
            select.select([self._master], [], [], 0.05)
        self._read()
        assert termios.tcgetattr(self._slave) == self.settings, "the terminal is as it was"
        return self.process.returncode

    def _read(self) -> str:
        with contextlib.suppress(BlockingIOError, OSError):
            while piece := os.read(self._master, 4096):
                self.screen += piece.decode(errors="replace")
        return self.screen


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture
def archive(stage: Stage) -> Iterator[RawServer]:
    async def respond(request: RawRequest, wire: Wire) -> None:
        pair = base64.b64encode("mé:hünter 2".encode()).decode()
        right = request.header("Authorization") == f"Basic {pair}"
        await (ranges(BODY) if right else reply(401))(request, wire)

    with stage.running(RawServer(respond)) as server:
        yield server


def manifest(folder: Path, server: RawServer) -> bytes:
    text = "version: 1\naccounts: {a: {auth: basic}}\ndefaults: {account: a}\nproducts:\n"
    text += f"- {{url: '{server.url('/x')}', file: x.bin}}\n"
    (folder / "m.yaml").write_text(text)
    return text.encode()


@pytest.mark.parametrize("progress", ["auto", "plain", "none"])
def test_the_user_name_is_echoed_and_the_password_is_not(progress: str, tmp_path: Path, archive: RawServer):
    manifest(tmp_path, archive)
    with Terminal(tmp_path, "run", "m.yaml", "--progress", progress) as terminal:
        terminal.until("user name for account a: ")
        terminal.type("mé\n")
        terminal.until("password for account a: ")
        terminal.type("hünter 2\n")
        assert terminal.ended() == 0, terminal.screen
    assert (tmp_path / "x.bin").read_bytes() == BODY
    assert "user name for account a: mé" in terminal.screen
    assert "hünter" not in terminal.screen


def test_a_manifest_on_standard_input_asks_the_terminal_itself(tmp_path: Path, archive: RawServer):
    with Terminal(tmp_path, "run", "-", "--progress", "none", piped=manifest(tmp_path, archive)) as terminal:
        terminal.until("user name for account a: ")
        terminal.type("mé\n")
        terminal.until("password for account a: ")
        terminal.type("hünter 2\n")
        assert terminal.ended() == 0, terminal.screen
    assert (tmp_path / "x.bin").read_bytes() == BODY
    assert "hünter" not in terminal.screen


COMMANDS: dict[str, tuple[str, ...]] = {
    "run": ("run", "m.yaml"),
    "run without display": ("run", "m.yaml", "--progress", "none"),
    "login": ("login", "m.yaml"),
    "check --remote": ("check", "m.yaml", "--remote"),
    "run of standard input": ("run", "-"),
}


@pytest.mark.parametrize("prompt", ["user name", "password"])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("end", "code"), [("ctrl-c", 130), ("SIGTERM", 143)])
def test_a_signal_at_a_prompt_ends_the_program_at_once(
    command: str, prompt: str, end: str, code: int, tmp_path: Path, archive: RawServer
):
    text = manifest(tmp_path, archive)
    piped: dict[str, Any] = {"piped": text} if "-" in COMMANDS[command] else {}
    with Terminal(tmp_path, *COMMANDS[command], **piped) as terminal:
        terminal.until("user name for account a: ")
        if prompt == "password":
            terminal.type("me\n")
            terminal.until("password for account a: ")
        terminal.type("half")
        if end == "ctrl-c":
            terminal.type("\x03")
        else:
            terminal.process.send_signal(signal.SIGTERM)
        assert terminal.ended() == code, terminal.screen
    assert "internal error" not in terminal.screen
    assert archive.log == []
    assert not (tmp_path / ".bulkdl" / "owner.json").exists()


@pytest.mark.parametrize("prompt", ["user name", "password"])
@pytest.mark.parametrize("command", ["run", "login"])
def test_the_end_of_the_input_is_a_missing_secret(command: str, prompt: str, tmp_path: Path, archive: RawServer):
    manifest(tmp_path, archive)
    with Terminal(tmp_path, *COMMANDS[command]) as terminal:
        terminal.until("user name for account a: ")
        if prompt == "password":
            terminal.type("me\n")
            terminal.until("password for account a: ")
        terminal.type("\x04")
        assert terminal.ended() == 3, terminal.screen
        out = terminal.process.stdout
        assert out is not None
        said = terminal.screen + out.read().decode()
    assert f"no {prompt} (" in said
    assert "the input ended" in said
    assert "internal error" not in said
    assert archive.log == []
