"""Precedence of flag, variable, manifest and default; error messages of wrong values."""

from __future__ import annotations

from dataclasses import fields
from datetime import time
from pathlib import Path

import pytest

from bulkdl.core.errors import UsageError
from bulkdl.core.models import Order, RunOptions, Settings, Window
from bulkdl.manifest.settings import RUN_OPTIONS, SETTINGS, by_name, resolve, resolve_run_options, value_of


def test_every_setting_and_run_option_of_the_model_is_in_the_table():
    assert {o.name for o in SETTINGS} == {f.name for f in fields(Settings)}
    assert {f.name for f in fields(RunOptions)} <= {o.name for o in RUN_OPTIONS}


def test_flags_and_variables_are_unique():
    options = (*SETTINGS, *RUN_OPTIONS)
    flags = [flag for o in options for flag in o.flags]
    assert len(set(flags)) == len(flags)
    assert len({o.variable for o in options}) == len(options)
    assert by_name("limit_rate").flag == "--limit-rate"
    assert by_name("limit_rate").variable == "BULKDL_LIMIT_RATE"


def test_defaults_are_those_of_the_model():
    assert resolve(flags={}, environ={}) == Settings()
    assert resolve_run_options(flags={}, environ={}) == RunOptions()


@pytest.mark.parametrize(
    ("flags", "environ", "manifest", "workers"),
    [
        ({"workers": "1"}, {"BULKDL_WORKERS": "2"}, {"workers": 3}, 1),
        ({"workers": None}, {"BULKDL_WORKERS": "2"}, {"workers": 3}, 2),
        ({}, {"BULKDL_WORKERS": ""}, {"workers": 3}, 3),
        ({}, {}, {}, None),
        ({"workers": "auto"}, {"BULKDL_WORKERS": "2"}, {"workers": 3}, None),
        ({"workers": 5}, {}, {}, 5),
    ],
)
def test_flag_beats_variable_beats_manifest_beats_default(flags, environ, manifest, workers):
    assert resolve(flags=flags, environ=environ, manifest=manifest).workers == workers


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("segments", "auto", None),
        ("segments", "4", 4),
        ("limit_rate", "40M", 40 * 1024**2),
        ("limit_rate", "0", None),
        ("limit_rate", "none", None),
        ("retries", "0", 0),
        ("timeout", "2m", 120.0),
        ("min_rate", "0", 0),
        ("max_wait", "90s", 90.0),
        ("window", "22:00-06:00", Window(time(22), time(6))),
        ("window", "none", None),
        ("until", "06:30", time(6, 30)),
        ("order", "newest", Order.NEWEST),
    ],
)
def test_each_setting_is_read_from_its_variable(name, text, value):
    settings = resolve(flags={}, environ={by_name(name).variable: text}, manifest={"segments": 9, "limit_rate": 1})
    assert getattr(settings, name) == value


def test_a_ca_file_is_made_absolute():
    assert resolve(flags={"ca_file": "ca.pem"}, environ={}).ca_file == Path.cwd() / "ca.pem"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("workers", "0"),
        ("workers", "257"),
        ("workers", "many"),
        ("segments", "65"),
        ("retries", "-1"),
        ("timeout", "0"),
        ("limit_rate", "fast"),
        ("window", "22:00"),
        ("until", "25:00"),
        ("order", "biggest"),
        ("progress", "loud"),
        ("overwrite", "perhaps"),
    ],
)
def test_the_message_for_a_wrong_value_names_the_flag_or_the_variable(name, text):
    option = by_name(name)
    with pytest.raises(UsageError, match=f"^{option.flag}: expected"):
        value_of(option, flags={name: text}, environ={})
    with pytest.raises(UsageError, match=f"^{option.variable}: expected"):
        value_of(option, flags={}, environ={option.variable: text})


def test_run_options_come_from_variables_too():
    environ = {"BULKDL_SELECT": "*.zip\n*.tif\n", "BULKDL_OVERWRITE": "1", "BULKDL_DRY_RUN": "no"}
    assert resolve_run_options(flags={}, environ=environ) == RunOptions(select=("*.zip", "*.tif"), overwrite=True)


def test_a_repeated_flag_is_a_tuple():
    assert resolve_run_options(flags={"select": ["a*", "b*"]}, environ={}).select == ("a*", "b*")


def test_every_option_has_help():
    assert all(len(o.help) > 10 for o in (*SETTINGS, *RUN_OPTIONS))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("give_up_after", "6h", 21600.0),
        ("give_up_after", "2s", 2.0),
        ("give_up_after", "0", 0.0),
        ("give_up_after", "never", float("inf")),
        ("give_up_after", " Never ", float("inf")),
        ("retry_for", "1h", 3600.0),
        ("retry_for", "0s", 0.0),
    ],
)
def test_the_waits_for_an_archive_and_a_product_are_durations(name, text, value):
    assert getattr(resolve(flags={name: text}, environ={}), name) == value


@pytest.mark.parametrize("text", ["-1s", "soon", "nan", "inf", "1e400", "6 hours or so"])
@pytest.mark.parametrize("name", ["give_up_after", "retry_for"])
def test_an_absurd_wait_is_named_with_its_flag(name, text):
    with pytest.raises(UsageError, match=by_name(name).flag):
        resolve(flags={name: text}, environ={})


def test_a_product_is_not_tried_forever():
    with pytest.raises(UsageError):
        resolve(flags={"retry_for": "never"}, environ={})
