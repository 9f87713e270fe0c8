"""The search for secrets, and the messages if none is found."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import sys
import types

import pytest

from bulkdl.auth.credentials import MissingSecret, NoKeyring, keyring_lookup, resolve
from bulkdl.core.errors import AccountStopped
from bulkdl.core.models import Account, AuthKind, Grant, SecretRef, SecretSource
from bulkdl.core.secret import Secret
from bulkdl.core.urls import HostList, Url

BASIC = Account(name="own", auth=AuthKind.BASIC)
OIDC = Account(name="own", auth=AuthKind.OIDC, token_url=Url("https://sso.example.org/token"), client_id="public")


def with_(account, **changes):
    return dataclasses.replace(account, **changes)


def conf(tmp_path, text, *, mode=0o600, encoding="utf-8"):
    path = tmp_path / "secrets.conf"
    path.write_bytes(text.encode(encoding))
    path.chmod(mode)
    return path


def shown(found):
    pairs = (("password", found.password), ("totp_secret", found.totp_secret), ("client_secret", found.client_secret))
    return {"username": found.username, **{k: v.reveal() for k, v in pairs if v}}


def test_variables_that_the_manifest_names_come_first(tmp_path):
    path = conf(tmp_path, "[login]\nuser = other\npassword = other\n")
    account = with_(BASIC, username=SecretRef("${U}@example.org"), password=SecretRef("${P}"), secrets=path)
    found = resolve(account, environ={"U": "me", "P": " p%w "})
    assert shown(found) == {"username": "me@example.org", "password": " p%w "}
    assert found.sources == {"username": SecretSource.ENVIRONMENT, "password": SecretSource.ENVIRONMENT}


@pytest.mark.parametrize(
    "password",
    [
        "qwer",
        "50%off%(x)s",
        "a=b:c",
        "x # y ; z",
        '"',
        "'",
        '"open',
        """it's "quoted'""",
        '"a" and "b"',
        "pÄss wörd+&=%€",
        "#hash",
        "[login]",
        "${HOME}",
        "\\n",
    ],
)
def test_a_password_in_the_file_is_read_unchanged(tmp_path, password):
    path = conf(tmp_path, f"[login]\nuser = me@example.org\npassword = {password}\ntotp_secret = 2345 ABCD\n")
    found = resolve(with_(OIDC, secrets=path), environ={})
    assert shown(found) == {"username": "me@example.org", "password": password, "totp_secret": "2345 ABCD"}
    assert set(found.sources.values()) == {SecretSource.SECRETS_FILE}
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ('"quoted"', "quoted"),
        ("'quoted'", "quoted"),
        ('" p "', " p "),
        ("""'"p"'""", '"p"'),
        ("""\"it's\"""", "it's"),
        ('"p\\n%(x)s"', "p\\n%(x)s"),
    ],
)
def test_quotes_around_a_value_do_not_belong_to_it(tmp_path, written, password):
    found = resolve(with_(OIDC, secrets=conf(tmp_path, f'[login]\nuser = "me"\npassword = {written}\n')), environ={})
    assert shown(found) == {"username": "me", "password": password}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("totp", 'unknown key "totp"; did you mean "totp_secret"?'),
        ("pass", 'unknown key "pass"; did you mean "password"?'),
        ("Passwort", 'unknown key "passwort"; did you mean "password"?'),
        ("otp", 'did you mean "totp_secret"?'),
        ("totp-secret", 'unknown key "totp-secret"; did you mean "totp_secret"?'),
        ("totpsecret", 'did you mean "totp_secret"?'),
        ("user name", 'did you mean "username"?'),
        ("login", 'did you mean "user"?'),
        ("usr", 'did you mean "user"?'),
        ("client_id", "set it in the manifest"),
        ("realm", 'unknown key "realm"; expected user, password'),
        ("hunter2==", ":4: unknown key; expected user, password"),
        ("ey" * 20, ":4: unknown key; expected user, password"),
    ],
)
@pytest.mark.parametrize("account", [BASIC, OIDC])
def test_an_unknown_key_is_named_and_nothing_is_found(tmp_path, key, said, account):
    path = conf(tmp_path, f"[login]\nuser = me\npassword = p\n{key} = hunter2\n")
    with pytest.raises(AccountStopped) as stop:
        resolve(with_(account, secrets=path), environ={})
    assert f"{path}:4: unknown key" in str(stop.value)
    assert said in str(stop.value)
    assert "hunter2" not in str(stop.value)


def test_keys_of_other_sections_are_not_ours(tmp_path):
    path = conf(tmp_path, "[other]\ntotp = 1\n[login]\nuser = me\npassword = p\n[more]\npass = 2\n")
    assert shown(resolve(with_(OIDC, secrets=path), environ={})) == {"username": "me", "password": "p"}


TOTP_URI = "otpauth://totp/L?secret=GEZDGNBVGY3TQOJQ&digits=8&period=60&algorithm=SHA256&issuer=%C3%A4"


@pytest.mark.parametrize("source", ["variable", "file", "keyring"])
def test_an_otpauth_uri_is_taken_wherever_a_totp_secret_is(tmp_path, source):
    path = conf(
        tmp_path, f"[login]\nuser = me\npassword = p\n{f'totp_secret = {TOTP_URI}' if source == 'file' else ''}\n"
    )
    account = with_(OIDC, secrets=path, totp_secret=SecretRef("${T}"))
    entries = {("bulkdl:own", "totp_secret"): TOTP_URI}
    found = resolve(
        account,
        environ={"T": f"{TOTP_URI}\n"} if source == "variable" else {},
        keyring=(lambda *asked: entries.get(asked)) if source == "keyring" else None,
    )
    assert found.totp_secret.reveal() == TOTP_URI


@pytest.mark.parametrize(
    "text", ["geheim1890", "otpauth://hotp/L?secret=GEZDGNBVGY3TQOJQ", "https://x/?secret=GEZDGNBV"]
)
def test_a_totp_secret_that_is_none_is_refused_with_its_place_and_never_shown(text):
    account = with_(OIDC, username=SecretRef("me"), password=SecretRef("${P}"), totp_secret=SecretRef("${T}"))
    with pytest.raises(AccountStopped, match="TOTP secret from environment variable T: ") as stop:
        resolve(account, environ={"P": "p", "T": text})
    assert not isinstance(stop.value, MissingSecret)
    assert "geheim" not in str(stop.value)
    assert "GEZD" not in str(stop.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_files_from_windows_are_read(tmp_path, encoding, newline):
    text = newline.join(["", "; mine", "[login]", "username=me", "password=ä", "client_secret: s", ""])
    found = resolve(with_(OIDC, secrets=conf(tmp_path, text, encoding=encoding)), environ={})
    assert shown(found) == {"username": "me", "password": "ä", "client_secret": "s"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("user = me\npassword = hunter2\n", ":1: expected the line [login]"),
        ("", "has no [login] section"),
        ("[logon]\nuser = me\n", "has no [login] section"),
        ("[login]\nuser = me\nhunter2\n", ":3: expected `name = value`"),
        ("[login]\npassword = hunter2\npassword = hunter2\n", ":3: duplicate key or section"),
        ("[login]\nuser = me\n  password = hunter2\n", "several lines"),
    ],
)
def test_an_invalid_file_is_named_with_its_line_and_never_quoted(tmp_path, text, said):
    path = conf(tmp_path, text)
    with pytest.raises(AccountStopped) as stop:
        resolve(with_(OIDC, secrets=path), environ={})
    assert said in str(stop.value)
    assert str(path) in str(stop.value)
    assert "hunter2" not in str(stop.value)
    assert stop.value.__cause__ is None
    assert stop.value.__suppress_context__


def test_a_file_that_is_missing_or_not_utf8_is_named(tmp_path):
    with pytest.raises(AccountStopped, match="does not exist"):
        resolve(with_(OIDC, secrets=tmp_path / "none.conf"), environ={})
    with pytest.raises(AccountStopped, match="not UTF-8"):
        resolve(with_(OIDC, secrets=conf(tmp_path, "[login]\npassword = ä\n", encoding="latin-1")), environ={})
    with pytest.raises(AccountStopped, match="cannot be read"):
        resolve(with_(OIDC, secrets=tmp_path), environ={})


def test_a_file_that_others_can_read_is_a_warning(tmp_path):
    path = conf(tmp_path, "[login]\nuser = me\npassword = p\n", mode=0o644)
    (warning,) = resolve(with_(OIDC, secrets=path), environ={}).warnings
    assert f"chmod 600 {path}" in warning


def test_the_keyring_is_asked_for_what_is_not_found_before():
    entries = {("bulkdl:own", "me"): "from the ring"}
    account = with_(BASIC, username=SecretRef("me"))
    found = resolve(account, environ={}, keyring=lambda service, name: entries.get((service, name)))
    assert shown(found) == {"username": "me", "password": "from the ring"}
    assert found.sources == {"username": SecretSource.GIVEN, "password": SecretSource.KEYRING}


def test_a_locked_keyring_is_a_warning_and_the_search_continues():
    def locked(service, name):
        raise LookupError("KeyringLocked")

    found = resolve(BASIC, environ={}, keyring=locked, prompt=lambda question, hidden: "typed")
    assert found.sources["password"] is SecretSource.PROMPT
    assert "KeyringLocked" in found.warnings[0]


def no_keyring(service, name):
    raise NoKeyring("this machine has none")


def test_a_machine_without_a_keyring_gives_no_warning():
    found = resolve(BASIC, environ={}, keyring=no_keyring, prompt=lambda question, hidden: "typed")
    assert found.warnings == ()


def test_the_message_for_a_missing_secret_names_the_unavailable_keyring():
    with pytest.raises(AccountStopped, match=r"the keyring \(this machine has none\)"):
        resolve(BASIC, environ={}, keyring=no_keyring)


def test_the_message_for_a_missing_secret_omits_a_keyring_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring", None)  # makes the import fail
    with pytest.raises(AccountStopped) as stopped:
        resolve(BASIC, environ={}, keyring=keyring_lookup)
    assert "keyring" not in stopped.value.reason
    assert resolve(BASIC, environ={}, keyring=keyring_lookup, prompt=lambda question, hidden: "typed").warnings == ()


def test_the_keyring_is_not_read_if_all_required_secrets_are_found():
    def never(service, name):
        pytest.fail("the keyring was asked")

    account = with_(OIDC, username=SecretRef("${U}"), password=SecretRef("${P}"))
    assert resolve(account, environ={"U": "me", "P": "p"}, keyring=never).warnings == ()


def test_the_keyring_is_read_for_a_totp_secret_whose_variable_is_not_set():
    entries = {("bulkdl:own", "totp_secret"): "GEZDGNBVGY3TQOJQ"}
    account = with_(OIDC, username=SecretRef("${U}"), password=SecretRef("${P}"), totp_secret=SecretRef("${T}"))
    found = resolve(account, environ={"U": "me", "P": "p"}, keyring=lambda *asked: entries.get(asked))
    assert found.sources["totp_secret"] is SecretSource.KEYRING


@pytest.mark.parametrize("name", [".netrc", "_netrc", "elsewhere"])
def test_netrc_is_found_by_its_usual_names_and_by_its_variable(tmp_path, name):
    path = tmp_path / name
    path.write_text("machine sso.example.org login me password n%trc\n")
    path.chmod(0o600)
    environ = {"NETRC": str(path)} if name == "elsewhere" else {"HOME": str(tmp_path)}
    found = resolve(OIDC, environ=environ)
    assert shown(found) == {"username": "me", "password": "n%trc"}
    assert found.sources["password"] is SecretSource.NETRC


def netrc(tmp_path, text):
    path = tmp_path / "netrc"
    path.write_text(text)
    path.chmod(0o600)
    return {"NETRC": str(path)}


def test_netrc_machines_are_tried_in_the_accounts_order_and_the_default_entry_last(tmp_path):
    text = "default login d password d\nmachine b login b password b\nmachine a login a password a\n"
    environ = netrc(tmp_path, text)
    assert resolve(with_(BASIC, netrc_hosts=("a", "b")), environ=environ).username == "a"
    assert resolve(with_(BASIC, hosts=HostList(("*.x", "b:8080"))), environ=environ).username == "b"
    assert resolve(with_(BASIC, hosts=HostList(("*.x", "[::1]:8080"))), environ=environ).username == "d"
    environ = netrc(tmp_path, text.partition("\n")[2])
    with pytest.raises(AccountStopped, match="machine c"):
        resolve(with_(BASIC, netrc_hosts=("c",)), environ=environ)


def test_without_hosts_in_the_manifest_each_host_has_the_password_of_its_own_netrc_entry(tmp_path):
    environ = netrc(tmp_path, "machine a login ua password pa\nmachine b login ub password pb\n")
    found = resolve(with_(BASIC, netrc_hosts=("a", "b", "c")), environ=environ)
    assert found.by_host == {"a": ("ua", Secret("pa")), "b": ("ub", Secret("pb"))}
    assert found.only_by_host
    assert any("no entry for c" in warning for warning in found.warnings)
    preset = resolve(with_(BASIC, netrc_hosts=("a", "c"), provider="p"), environ=environ)
    assert (preset.only_by_host, preset.username) == (False, "ua")
    listed = resolve(with_(BASIC, netrc_hosts=("a", "c"), hosts=HostList(("a", "c"))), environ=environ)
    assert (listed.only_by_host, listed.username, listed.warnings) == (False, "ua", ())


def test_a_password_from_elsewhere_goes_to_every_host_of_the_account():
    account = with_(BASIC, username=SecretRef("me"), password=SecretRef("${P}"), netrc_hosts=("a", "b"))
    found = resolve(account, environ={"P": "p"})
    assert (found.by_host, found.only_by_host) == ({}, False)


@pytest.mark.parametrize(("login", "expected"), [("u", "1"), ("v", "2"), ("w", "3")])
def test_of_several_netrc_entries_the_one_of_the_manifests_user_counts(tmp_path, login, expected):
    text = "machine a login u password 1\nmachine a login v password 2\nmachine a password 3\n"
    account = with_(BASIC, username=SecretRef(login), netrc_hosts=("a",))
    assert shown(resolve(account, environ=netrc(tmp_path, text))) == {"username": login, "password": expected}


def test_a_netrc_password_is_used_as_it_is_written(tmp_path):
    environ = netrc(tmp_path, 'machine a login "u x" password "p\\n\\\\q \\t"\n')
    assert shown(resolve(with_(BASIC, netrc_hosts=("a",)), environ=environ)) == {
        "username": "u x",
        "password": "p\n\\q \t",
    }


def test_the_password_of_another_user_in_netrc_is_not_used(tmp_path):
    path = tmp_path / "netrc"
    path.write_text("machine a login other password secret\n")
    path.chmod(0o600)
    with pytest.raises(AccountStopped):
        resolve(with_(BASIC, username=SecretRef("me"), netrc_hosts=("a",)), environ={"NETRC": str(path)})


def test_a_broken_netrc_is_a_warning_with_its_line_and_without_its_text(tmp_path):
    path = tmp_path / "netrc"
    path.write_text("machine a login me\npasword hunter2\n")
    account = with_(BASIC, netrc_hosts=("a",))
    found = resolve(account, environ={"NETRC": str(path)}, prompt=lambda question, hidden: "typed")
    assert str(path) in found.warnings[0]
    assert "hunter2" not in str(found.warnings)


def test_the_user_is_prompted_last_and_only_for_required_secrets():
    asked = []

    def prompt(question, hidden):
        asked.append((question, hidden))
        return "typed"

    found = resolve(OIDC, environ={}, prompt=prompt)
    assert asked == [("user name for account own", False), ("password for account own", True)]
    assert found.totp_secret is None


def test_the_end_of_the_input_ends_the_questions():
    asked = []
    with pytest.raises(MissingSecret, match=r"a prompt \(the input ended\).*a prompt \(the input ended\)"):
        resolve(OIDC, environ={}, prompt=lambda question, hidden: asked.append(question))
    assert asked == ["user name for account own"]


def test_a_missing_secret_names_every_place_and_what_to_set(tmp_path):
    path = conf(tmp_path, "[login]\nuser = me\npassword =\n")
    account = with_(OIDC, password=SecretRef("${EMPTY}"), secrets=path, netrc_hosts=("sso.example.org",))
    with pytest.raises(AccountStopped) as stop:
        resolve(account, environ={"EMPTY": "", "HOME": str(tmp_path)}, keyring=lambda service, name: None)
    text = str(stop.value)
    for place in ("EMPTY (empty)", str(path), "keyring", ".netrc", "prompt", "${OWN_PASSWORD}"):
        assert place in text


def test_an_optional_secret_that_the_manifest_names_is_required():
    account = with_(OIDC, username=SecretRef("me"), password=SecretRef("p"), totp_secret=SecretRef("${OTP}"))
    with pytest.raises(AccountStopped, match=r"no TOTP secret \(looked at: the variable OTP \(not set\)"):
        resolve(account, environ={})


def test_client_credentials_need_no_user_if_the_client_id_is_set():
    account = with_(OIDC, grant=Grant.CLIENT_CREDENTIALS, client_secret=SecretRef("${S}"))
    assert shown(resolve(account, environ={"S": "s3cr:et +%"})) == {"username": None, "client_secret": "s3cr:et +%"}


BEARER = Account(name="b", auth=AuthKind.BEARER, token=SecretRef("${T}"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" tok\n", "tok"),
        ("Bearer tok", "tok"),
        ("bearer  tok\r\n", "tok"),
        ("BEARER\ttok", "tok"),
        ("bearertok", "bearertok"),
        ("tok Bearer", "tok Bearer"),
    ],
)
def test_what_a_copy_adds_to_a_token_is_dropped(value, expected):
    assert resolve(BEARER, environ={"T": value}).token.reveal() == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("p\n", "p"),
        ("p\r\n", "p"),
        ("p\n\n", "p"),
        ("p\r", "p"),
        (" p ", " p "),
        ("p \n", "p "),
        ("Bearer p", "Bearer p"),
    ],
)
def test_of_a_password_only_the_line_ends_are_dropped(value, expected):
    account = with_(BASIC, username=SecretRef("${U}"), password=SecretRef("${P}"))
    found = resolve(account, environ={"U": "me\n", "P": value})
    assert shown(found) == {"username": "me", "password": expected}
    assert found.warnings == ()


def test_a_secret_of_two_variables_has_the_line_end_of_neither():
    account = with_(BASIC, username=SecretRef("me"), password=SecretRef("${A}${B}"))
    assert resolve(account, environ={"A": "one\n", "B": "two\r\n"}).password == Secret("onetwo")


@pytest.mark.parametrize("value", ["top\nsecret", "top\rsecret\n", "top\n\nsecret"])
@pytest.mark.parametrize("auth", [BASIC, BEARER])
def test_a_secret_of_several_lines_is_refused_without_being_shown(auth, value):
    account = with_(auth, username=SecretRef("me"), password=SecretRef("${P}"), token=SecretRef("${P}"))
    with pytest.raises(AccountStopped, match=r"from environment variable P: it has more than one line") as stop:
        resolve(account, environ={"P": value})
    assert "top" not in str(stop.value)


def test_the_place_of_a_secret_names_the_variable_or_the_file(tmp_path):
    path = conf(tmp_path, "[login]\npassword = p\n")
    found = resolve(with_(OIDC, username=SecretRef("${OWN_USER}"), secrets=path), environ={"OWN_USER": "me"})
    assert found.places == {"username": "environment variable OWN_USER", "password": f"secrets file {path}"}


def test_an_account_without_authentication_needs_nothing():
    assert resolve(Account(name="n", auth=AuthKind.NONE), environ={}).sources == {}


@pytest.mark.parametrize(
    ("installed", "advice"), [(True, "or store it: keyring set"), (False, "'bulkdl[keyring]', then keyring")]
)
def test_the_advice_to_use_a_keyring_names_the_package_if_it_is_missing(monkeypatch, installed, advice):
    monkeypatch.setitem(sys.modules, "keyring", types.ModuleType("keyring") if installed else None)
    if installed:
        sys.modules["keyring"].__spec__ = importlib.machinery.ModuleSpec("keyring", None)
    with pytest.raises(MissingSecret) as stop:
        resolve(BASIC, environ={}, keyring=no_keyring)
    assert advice in stop.value.hint
