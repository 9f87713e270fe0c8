"""The program in real processes, as a shell runs it: output and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

HEAVY = ("asyncio", "aiohttp", "yaml", "rich", "jsonschema_rs", "sqlite3", "shtab", "pyotp", "keyring")


def bulkdl(*words: str, cwd=None, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BULKDL_")}
    return subprocess.run(
        [sys.executable, "-m", "bulkdl", *words],
        cwd=cwd,
        input=stdin,
        env=inherited | {"PYTHONUTF8": "1", "COLUMNS": "100"} | environ,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_version_is_one_line():
    done = bulkdl("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("bulkdl ")
    assert done.stdout.count("\n") == 1


def test_no_command_prints_the_help_and_ends_with_2():
    done = bulkdl()
    assert done.returncode == 2
    assert "getting started:" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("demo", "--help")])
def test_help_goes_to_standard_output(words):
    done = bulkdl(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: bulkdl")


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["run", "--help"], ["nope"]])
def test_version_and_help_import_nothing_heavy(words):
    program = (
        "import sys; from bulkdl.__main__ import main; sys.argv[1:] = sys.argv[2:]; main();"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "-", *words], capture_output=True, encoding="utf-8", timeout=60, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_schema_is_a_json_schema_of_the_manifest():
    done = bulkdl("schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    assert {"accounts", "settings", "products"} <= set(schema["properties"])


def test_providers_are_listed_and_explained():
    listed = bulkdl("providers")
    assert listed.returncode == 0
    for name in ("creodias", "terrascope", "cdse", "earthdata", "eumetsat"):
        assert name in listed.stdout
    one = bulkdl("providers", "creodias")
    assert one.returncode == 0
    assert "token_url" in one.stdout
    assert json.loads(bulkdl("providers", "--json").stdout)["creodias"]


def test_an_unknown_provider_is_a_usage_error_with_the_likely_name():
    done = bulkdl("providers", "creodia")
    assert done.returncode == 2
    assert "creodias" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_the_commands_and_flags(shell):
    done = bulkdl("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("verify", "--limit-rate" if shell != "tcsh" else "limit-rate"):
        assert word in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_bash_completion_is_a_script_that_bash_accepts():
    script = bulkdl("completion", "bash").stdout
    assert subprocess.run(["bash", "-n"], input=script, encoding="utf-8", timeout=60, check=False).returncode == 0


BAD_MANIFESTS = {
    "not YAML": "products: [",
    "no products": "version: 1\n",
    "a misspelt key": "version: 1\nproduct:\n  - https://archive.example.org/a.zip\n",
    "a path out of the destination": "version: 1\nproducts:\n  - {url: 'https://archive.example.org/a', file: ../x}\n",
    "a literal password": "version: 1\naccounts: {a: {auth: basic, username: jo, password: hunter2}}\n"
    "products: [https://archive.example.org/a.zip]\n",
}


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        *(("check", fault) for fault in BAD_MANIFESTS),
        *((command, "a misspelt key") for command in ("run", "status", "verify", "login")),
    ],
)
def test_a_bad_manifest_ends_with_2_its_place_and_no_traceback(command, fault, tmp_path):
    (tmp_path / "m.yaml").write_text(BAD_MANIFESTS[fault], encoding="utf-8")
    done = bulkdl(command, "m.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "m.yaml:" in done.stderr
    assert done.stdout == ""
    assert "hunter2" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.yaml"]


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (("run", "missing.yaml"), {}),
        (("run", "m.yaml", "-j", "many"), {}),
        (("run", "m.yaml"), {"BULKDL_WORKERS": "many"}),
        (("run", "m.yaml", "--log-file", "missing/x.log"), {}),
        (("run", "m.yaml", "--report", "missing/x.html"), {}),
        (("run", "m.yaml", "--progress", "loud"), {}),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_no_traceback(words, environ, tmp_path):
    (tmp_path / "m.yaml").write_text("version: 1\nproducts: [http://127.0.0.1:9/a.zip]\n", encoding="utf-8")
    done = bulkdl(*words, cwd=tmp_path, **environ)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr
    assert done.stdout == ""


def test_a_character_that_the_terminal_cannot_show_is_written_as_an_escape(tmp_path):
    (tmp_path / "m.yaml").write_text("version: 1\nprödücts: []\n", encoding="utf-8")
    done = bulkdl("check", "m.yaml", cwd=tmp_path, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no /dev/full or pipes of this kind")
def test_a_reader_that_goes_away_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bulkdl", "schema"], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
