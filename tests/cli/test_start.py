"""What a command brings in before it does anything: no more than it needs."""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import suppress

import pytest

from bulkdl.cli.collector import at_rest, begin
from bulkdl.cli.parser import COMMANDS, build_parser
from bulkdl.errors import ManifestError
from bulkdl.manifest import load_text

HEAVY = ("aiohttp", "asyncio", "yaml", "jsonschema_rs", "rich", "filelock")
ONLY_FOR_RUNS = (
    "aiohttp",
    "rich",
    "blake3",
    "tarfile",
    "pyotp",
    "keyring",
    "bulkdl.formats",
    "bulkdl.auth.credentials",
    "asyncio",
    "ssl",
    "concurrent.futures",
    "filelock",
    "aiofiles",
    "importlib.resources",
)
ONLY_FOR_THE_NETWORK = ("aiohttp", "yarl", "urllib.request", "bulkdl.http", "bulkdl.engine", "bulkdl.wiring", "blake3")


def imported_by(*command: str) -> set[str]:
    script = "import sys; from bulkdl.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_the_version_costs_no_more_than_the_interpreter():
    assert not imported_by("--version") & set(HEAVY)


def test_a_plan_without_accounts_brings_in_nothing_that_downloads_or_reads_archives(tmp_path):
    manifest = tmp_path / "m.yaml"
    manifest.write_text("version: 1\nproducts:\n- https://archive.example.org/a.zip\n")
    assert not imported_by("check", str(manifest)) & set(ONLY_FOR_RUNS)


def test_a_plan_with_accounts_brings_in_nothing_that_downloads_either(tmp_path):
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        "version: 1\naccounts: {own: {auth: bearer, token: '${OWN}'}}\ndefaults: {account: own}\n"
        "products:\n- https://archive.example.org/a.zip\n"
    )
    assert not imported_by("check", str(manifest)) & {"aiohttp", "asyncio", "filelock"}


def test_a_run_that_finds_everything_in_place_brings_in_nothing_that_reaches_the_network(tmp_path):
    manifest = tmp_path / "m.yaml"
    manifest.write_text("version: 1\nproducts:\n- {url: 'https://archive.example.org/a.zip', file: a.zip, size: 3}\n")
    (tmp_path / "a.zip").write_bytes(b"123")
    modules = imported_by("run", str(manifest), "--progress", "none")
    assert "bulkdl.ground" in modules
    assert not modules & set(ONLY_FOR_THE_NETWORK)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_a_command_line_that_begins_with_a_command_is_read_as_by_the_whole_tree(name, capsys):
    said = []
    for parser in (build_parser(), build_parser(only=name)):
        for words in ([name, "--help"], [name, "--no-such-flag"]):
            with pytest.raises(SystemExit):
                parser.parse_args(words)
        said.append(capsys.readouterr())
    assert said[0] == said[1]


@pytest.mark.parametrize("first", ["--help", "-h", "nonsense", ""])
def test_a_command_line_that_begins_otherwise_is_read_by_the_whole_tree(first):
    assert build_parser(only=first).format_help() == build_parser().format_help()


@pytest.mark.parametrize("text", ["https://archive.example.org/a.zip\n", "products: 3\n"])
def test_reading_a_manifest_leaves_the_collector_as_it_was(text):
    was_on = gc.isenabled()
    try:
        for switch, on in ((gc.disable, False), (gc.enable, True)):
            switch()
            with suppress(ManifestError):
                load_text(text, environ={})
            assert gc.isenabled() is on
    finally:
        (gc.enable if was_on else gc.disable)()


def test_the_collector_rests_until_a_command_begins_its_work_and_is_afterwards_as_it_was():
    before = gc.get_freeze_count()
    with at_rest():
        assert not gc.isenabled()
        begin()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_plan_is_made_without_a_collection_but_for_one_at_its_end(tmp_path):
    manifest = tmp_path / "m.yaml"
    manifest.write_text("version: 1\nproducts:\n- https://archive.example.org/a.zip\n")
    script = (
        "import gc, sys\n"
        "from bulkdl.cli import collector, main\n"
        "gc.collect()\n"
        "seen = []\n"
        "gc.callbacks.append(lambda phase, _: phase == 'start' and seen.append(phase))\n"
        "main.main(sys.argv[1:])\n"
        "print(len(seen), gc.isenabled(), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script, "check", str(manifest)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    collections, on = done.stderr.split()
    assert int(collections) <= 1
    assert on == "True"


def test_a_run_reads_the_certificates_of_the_system_once_beside_the_reading_of_aiohttp(tmp_path):
    manifest = tmp_path / "m.yaml"
    manifest.write_text("version: 1\nproducts:\n- {url: 'http://127.0.0.1:9/a.zip', file: a.zip}\n")
    script = (
        "import ssl, sys, threading\n"
        "readings = []\n"
        "real = ssl.SSLContext.load_default_certs\n"
        "def load(self, *purpose):\n"
        "    readings.append(threading.current_thread() is threading.main_thread())\n"
        "    real(self, *purpose)\n"
        "ssl.SSLContext.load_default_certs = load\n"
        "from bulkdl.cli.main import main\n"
        "main(sys.argv[1:])\n"
        "print(len(readings), any(readings), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script, "run", str(manifest), "--progress", "none", "--retries", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, on_the_main_thread = done.stderr.split()
    assert int(count) <= 2
    assert on_the_main_thread == "False", "the event loop would wait for them"
