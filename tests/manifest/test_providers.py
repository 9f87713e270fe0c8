"""The presets are complete, and each makes a valid account."""

from __future__ import annotations

import pytest

from bulkdl.auth import providers
from tests.manifest.reading import read


def test_the_five_services_are_there():
    assert set(providers.names()) >= {"cdse", "creodias", "earthdata", "eumetsat", "terrascope"}


@pytest.mark.parametrize("name", providers.names())
def test_a_preset_makes_a_valid_account(name):
    account = read(f"accounts: {{a: {{provider: {name}}}}}\nproducts: [https://x.example/a]").accounts["a"]
    assert account.provider == name
    assert account.hosts is not None
    assert account.netrc_hosts
    assert account.token_url is None or account.token_url.scheme == "https"


@pytest.mark.parametrize("name", providers.names())
def test_a_preset_tells_whether_its_facts_are_checked(name):
    provider = providers.load(name)
    assert provider.description
    assert provider.facts
    assert set(provider.facts.values()) <= {"checked", "reported", "unknown"}


@pytest.mark.parametrize("name", ["nope", "", "../creodias", "creodias.yaml"])
def test_an_unknown_preset_is_a_key_error(name):
    with pytest.raises(KeyError):
        providers.load(name)
