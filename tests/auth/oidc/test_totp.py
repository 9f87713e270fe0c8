"""One-time codes: a code is text, and no time step is used twice."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import multiprocessing
import random
from pathlib import Path

import filelock
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkdl.auth.oidc.totp import UsedCodeLedger, code_at
from bulkdl.auth.oidc.totp_secret import TotpSecret, normalise
from bulkdl.core.errors import AccountStopped
from tests.auth.realm import TOTP, Realm
from tests.clocks import ImpatientClock

SECRET = normalise(TOTP)
NOWHERE = Path("/dev/null/nowhere")
RFC_STEP_START = 1_111_111_110.0
"""First second of a time step. RFC 6238 appendix B has the code of the step before it: 07081804."""


class Collected(list):
    def __call__(self, text):
        self.append(text)


def ledger(tmp_path, clock, warnings=None) -> UsedCodeLedger:
    return UsedCodeLedger(tmp_path, clock=clock, warn=Collected() if warnings is None else warnings)


@pytest.mark.parametrize(
    "written",
    [
        "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ",
        TOTP,
        "gezd-gnbv-gy3t-qojq-gezd-gnbv-gy3t-qojq",
        " GEZDGNBVGY3TQOJQ\tGEZDGNBVGY3TQOJQ======\n",
    ],
)
def test_a_secret_may_contain_spaces_dashes_and_lower_case(written):
    assert normalise(written) == SECRET


@pytest.mark.parametrize("written", ["", "  = ", "geheim1890", "GEZDGNBVG", "ÄÖÜ"])
def test_text_that_is_not_base32_is_refused_without_being_quoted(written):
    with pytest.raises(ValueError, match="TOTP secret") as refusal:
        normalise(written)
    assert not written.strip(" =") or written.strip() not in str(refusal.value)


@given(st.binary(min_size=1, max_size=40))
def test_every_base32_text_without_padding_is_a_secret(key):
    text = base64.b32encode(key).decode().rstrip("=")
    assert base64.b32decode(normalise(text.lower()).reveal()) == key


def test_a_code_keeps_its_leading_zero():
    assert code_at(SECRET, 37037036).reveal() == "081804"


@pytest.mark.parametrize("key", [b"0", b"0123456789", b"0123456789" * 2, b"0123456789" * 4])
def test_a_secret_of_any_length_gives_the_codes_of_rfc_4226(key):
    step = 37037036
    digest = hmac.digest(key, step.to_bytes(8), "sha1")
    number = int.from_bytes(digest[digest[-1] & 15 :][:4]) & 0x7FFFFFFF
    assert code_at(normalise(base64.b32encode(key).decode()), step).reveal() == f"{number % 10**6:06}"


URI = "otpauth://totp/Archive:me@example.org?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


@pytest.mark.parametrize(
    ("text", "digits", "period", "algorithm"),
    [
        (URI, 6, 30, "sha1"),
        (f"{URI}&digits=8&period=60&algorithm=SHA256&issuer=Archive", 8, 60, "sha256"),
        (f"{URI}&issuer=A%20B&digits=7&algorithm=sha512", 7, 30, "sha512"),
        (f"{URI}&algorithm=SHA-1&period=&digits=", 6, 30, "sha1"),
        (f"{URI}&algorithm=HmacSHA256", 6, 30, "sha256"),
        (f"  {URI.replace('otpauth', 'OTPAUTH').replace('totp/', 'TOTP/')}&unknown=1#x \n", 6, 30, "sha1"),
        ("otpauth://totp/?issuer=&secret=gezd+gnbv+gy3t%20qojq%20gezdgnbvgy3tqojq%3D%3D", 6, 30, "sha1"),
        (URI.replace("secret", "SECRET"), 6, 30, "sha1"),
        ("otpauth://totp?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&period=15", 6, 15, "sha1"),
    ],
)
def test_an_otpauth_uri_is_a_secret_with_its_own_way_to_make_codes(text, digits, period, algorithm):
    secret = normalise(text)
    assert (secret.reveal(), secret.digits, secret.period, secret.algorithm) == (
        SECRET.reveal(),
        digits,
        period,
        algorithm,
    )
    assert (secret == SECRET) == ((digits, period, algorithm) == (6, 30, "sha1"))
    assert str(secret) == "***"
    assert len(code_at(secret, 1).reveal()) == digits


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (URI.replace("totp/", "hotp/") + "&counter=1", "hotp"),
        (URI.replace("totp/", "steam/"), "of another kind"),
        ("otpauth://totp/Label", "no secret="),
        ("otpauth://totp/Label?secret=", "no secret="),
        ("otpauth://totp/Label?secret=geheim1890", "not base32"),
        ("otpauth://totp/Label?secret=%20-", "is empty"),
        (f"{URI}&algorithm=MD5", "found MD5"),
        (f"{URI}&digits=3", "4 to 10"),
        (f"{URI}&digits=11", "4 to 10"),
        (f"{URI}&digits=six", "found six"),
        (f"{URI}&period=0", "1 to 3600"),
        (f"{URI}&period=-30", "1 to 3600"),
        (f"{URI}&period=GEZDGNBVGY3TQOJQ", "found something else"),
        (f"{URI}&encoder=steam", "not digits"),
        ("otpauth:GEZDGNBVGY3TQOJQ", "of another kind"),
        ("otpauth://[totp/?secret=GEZDGNBVGY3TQOJQ", "not a valid"),
    ],
)
def test_an_otpauth_uri_that_cannot_be_used_is_refused_without_being_quoted(text, said):
    with pytest.raises(ValueError, match="TOTP secret") as refusal:
        normalise(text)
    assert said in str(refusal.value)
    assert "GEZD" not in str(refusal.value)
    assert "geheim" not in str(refusal.value)


@pytest.mark.parametrize(
    ("key", "algorithm", "code"),
    [
        (b"12345678901234567890", "SHA1", "94287082"),
        (b"12345678901234567890123456789012", "SHA256", "46119246"),
        (b"1234567890" * 6 + b"1234", "SHA512", "90693936"),
    ],
)
def test_the_codes_are_those_of_rfc_6238_appendix_b(key, algorithm, code):
    uri = f"otpauth://totp/x?secret={base64.b32encode(key).decode().rstrip('=')}&digits=8&algorithm={algorithm}"
    assert code_at(normalise(uri), 59 // 30).reveal() == code


async def test_the_ledger_counts_the_steps_of_the_secrets_own_period(tmp_path):
    clock = ImpatientClock(wall=60.0 * 1_000_000)
    minute = normalise(f"{URI}&period=60&digits=8")
    book = ledger(tmp_path, clock)
    assert await book.reserve(minute) == code_at(minute, 1_000_000)
    assert await ledger(tmp_path, clock).reserve(minute) == code_at(minute, 1_000_001)
    assert clock.slept == [pytest.approx(60.05)]
    assert await book.reserve(SECRET) == code_at(SECRET, 2_000_002)


async def test_the_same_secret_with_other_digits_has_the_same_used_steps(tmp_path):
    clock = ImpatientClock(wall=RFC_STEP_START)
    await ledger(tmp_path, clock).reserve(SECRET)
    await ledger(tmp_path, clock).reserve(normalise(f"{URI}&digits=8"))
    assert clock.slept == [pytest.approx(30.05)]


async def test_a_secret_with_very_short_steps_gets_a_code_too(tmp_path):
    secret = TotpSecret(SECRET.reveal(), period=2)
    clock = ImpatientClock(wall=1000.5)
    assert await ledger(tmp_path, clock).reserve(secret) == code_at(secret, 500)


async def test_each_login_has_a_code_of_its_own(tmp_path):
    clock = ImpatientClock(wall=RFC_STEP_START)
    book = ledger(tmp_path, clock)
    codes = [(await book.reserve(SECRET)).reveal() for _ in range(4)]
    assert len(set(codes)) == 4
    assert 90 <= sum(clock.slept) <= 91


async def test_a_code_with_less_than_two_seconds_left_is_not_used(tmp_path):
    clock = ImpatientClock(wall=RFC_STEP_START - 1.9)
    waits = Collected()
    code = await ledger(tmp_path, clock).reserve(SECRET, waiting=waits)
    assert code == code_at(SECRET, 37037037)
    assert waits == [pytest.approx(1.9)]
    assert clock.slept == [pytest.approx(1.95)]


async def test_a_code_with_two_seconds_left_is_used_at_once(tmp_path):
    clock = ImpatientClock(wall=RFC_STEP_START - 2)
    assert (await ledger(tmp_path, clock).reserve(SECRET)).reveal() == "081804"
    assert clock.slept == []


async def test_a_restart_within_a_step_waits_for_the_next(tmp_path):
    clock = ImpatientClock(wall=RFC_STEP_START)
    first = await ledger(tmp_path, clock).reserve(SECRET)
    second = await ledger(tmp_path, clock).reserve(SECRET)
    assert (first, second) == (code_at(SECRET, 37037037), code_at(SECRET, 37037038))


async def test_two_secrets_do_not_wait_for_each_other(tmp_path):
    clock = ImpatientClock(wall=RFC_STEP_START)
    book = ledger(tmp_path, clock)
    await book.reserve(SECRET)
    await book.reserve(normalise("MFRGGZDFMZTWQ2LK"))
    assert clock.slept == []


async def test_the_servers_clock_decides_if_it_is_known(tmp_path):
    clock = ImpatientClock(wall=RFC_STEP_START)
    assert await ledger(tmp_path, clock).reserve(SECRET, skew=-3600.0) == code_at(SECRET, 37037037 - 120)


@pytest.mark.parametrize(("back", "waits"), [(0, 1), (1, 2), (2, 3), (3, 0), (4, 0)])
async def test_a_step_is_free_if_no_step_up_to_two_later_was_used(tmp_path, back, waits):
    clock = ImpatientClock(wall=RFC_STEP_START)
    await ledger(tmp_path, clock).reserve(SECRET)
    clock.jump_wall(-30 * back)
    assert await ledger(tmp_path, clock).reserve(SECRET) == code_at(SECRET, 37037037 - back + waits)
    assert clock.slept == ([pytest.approx(30.05)] + [pytest.approx(30.0)] * 2)[:waits]


async def test_the_ledger_has_the_last_eight_steps_under_the_hash_of_the_secret(tmp_path):
    clock = ImpatientClock(wall=RFC_STEP_START)
    for _ in range(10):
        await ledger(tmp_path, clock).reserve(SECRET)
    digest = hashlib.sha256(b"bulkdl totp steps\0" + SECRET.reveal().encode()).hexdigest()
    name = f"totp-{digest[:32]}"
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.json", f"{name}.lock"}
    assert json.loads((tmp_path / f"{name}.json").read_text()) == list(range(37037039, 37037047))
    assert (tmp_path / f"{name}.lock").stat().st_mode & 0o777 == 0o600


async def test_of_a_longer_list_the_ledger_reads_the_last_eight_steps(tmp_path):
    clock = ImpatientClock(wall=RFC_STEP_START)
    await ledger(tmp_path, clock).reserve(SECRET)
    file = next(tmp_path.glob("*.json"))
    file.write_text(json.dumps([37037037, *range(1, 9)]))
    assert await ledger(tmp_path, clock).reserve(SECRET) == code_at(SECRET, 37037037)
    file.write_text(json.dumps([1, 37037037, *range(2, 9)]))
    assert await ledger(tmp_path, clock).reserve(SECRET) == code_at(SECRET, 37037038)


async def test_a_ledger_that_another_process_holds_is_told_and_steps_are_tracked_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("bulkdl.auth.oidc.totp._LOCK_TIMEOUT_S", 0.0)
    clock, warnings = ImpatientClock(wall=RFC_STEP_START), Collected()
    book = ledger(tmp_path, clock, warnings)
    await book.reserve(SECRET)
    with filelock.FileLock(next(tmp_path.glob("*.lock")), thread_local=False):
        assert await book.reserve(SECRET) == code_at(SECRET, 37037038)
    assert ["locked by another process" in warning for warning in warnings] == [True]


async def test_a_step_used_by_a_clock_an_hour_ahead_blocks_nothing(tmp_path):
    clock = ImpatientClock(wall=RFC_STEP_START + 3600)
    await ledger(tmp_path, clock).reserve(SECRET)
    clock.jump_wall(-3600)
    await ledger(tmp_path, clock).reserve(SECRET)
    assert clock.slept == []


async def test_the_files_hold_no_secret_and_are_the_owners_alone(tmp_path):
    await ledger(tmp_path / "state", ImpatientClock()).reserve(SECRET)
    files = list((tmp_path / "state").iterdir())
    assert files
    for path in files:
        assert SECRET.reveal() not in path.name + path.read_text()
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[1,", b'{"a": 1}', b"\xff\xfe", b'["x", null, 1e9]'])
async def test_a_damaged_ledger_is_replaced(tmp_path, content):
    clock, warnings = ImpatientClock(wall=RFC_STEP_START), Collected()
    book = ledger(tmp_path, clock, warnings)
    await book.reserve(SECRET)
    next(tmp_path.glob("*.json")).write_bytes(content)
    await book.reserve(SECRET)
    assert not warnings
    assert clock.slept, "what this process knows of the step still counts"


async def test_an_unwritable_directory_gives_one_warning_and_steps_are_still_not_reused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    clock, warnings = ImpatientClock(wall=RFC_STEP_START), Collected()
    book = ledger(tmp_path / "file" / "state", clock, warnings)
    codes = {(await book.reserve(SECRET)).reveal() for _ in range(3)}
    assert len(codes) == 3
    assert len(warnings) == 1
    assert "ledger" in warnings[0]


def _reserve_in_a_process(directory, start, out):
    clock = ImpatientClock(wall=start)
    out.put(asyncio.run(UsedCodeLedger(directory, clock=clock, warn=print).reserve(SECRET)).reveal())


def test_processes_that_start_in_one_step_get_different_codes(tmp_path):
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    processes = [context.Process(target=_reserve_in_a_process, args=(tmp_path, RFC_STEP_START, out)) for _ in range(3)]
    for process in processes:
        process.start()
    codes = {out.get(timeout=30) for _ in processes}
    for process in processes:
        process.join()
    assert len(codes) == 3


@pytest.mark.parametrize("wall", [1_750_000_000.0, 1_750_000_019.5, 1_750_000_049.99])
async def test_a_login_with_a_code_works_at_any_moment_of_a_step(wall):
    async with Realm(clock=ImpatientClock(wall=wall)) as realm:
        await realm.authenticator("otto").credential()
        assert realm.identity.count("password") == 1


async def test_two_accounts_with_one_secret_never_use_the_same_step():
    async with Realm() as realm:
        authenticators = [realm.authenticator("otto", name=f"otto{n}") for n in range(3)]
        await asyncio.gather(*(authenticator.credential() for authenticator in authenticators))
        assert realm.identity.count("password") == realm.identity.logins == 3
        assert any("one-time code" in text for text in realm.event_details("waiting"))


async def test_a_login_each_hour_uses_a_new_code_each_time():
    async with Realm(expires_in=600, refresh_expires_in=600) as realm:
        authenticator = realm.authenticator("otto")
        for _ in range(8):
            await authenticator.credential()
            await realm.clock.advance(601)
        assert authenticator.logins == realm.identity.count("password") == 8


@pytest.mark.parametrize("skew", [-400.0, -95.0, 95.0, 3600.0])
async def test_a_clock_that_is_off_costs_one_refusal_then_the_servers_time_is_used(skew):
    clock = ImpatientClock()
    server = _Shifted(clock, skew)
    async with Realm(clock=clock, server_clock=server) as realm:
        authenticator = realm.authenticator("otto")
        await authenticator.credential()
        assert (realm.identity.count("password"), authenticator.logins) == (2, 1)
        assert "clock" in realm.notes()[0]
        assert sum(clock.slept) < 31


async def test_a_wrong_one_time_secret_costs_two_attempts_and_no_lock():
    async with Realm() as realm:
        authenticator = realm.authenticator("otto")
        realm.identity.users["otto"] = type(realm.identity.users["otto"])(
            name="otto", password=realm.identity.users["otto"].password, totp_secret="MFRGGZDFMZTWQ2LK" * 2
        )
        with pytest.raises(AccountStopped, match="TOTP"):
            await authenticator.credential()
        assert realm.identity.count("password") == 2


class _Shifted:
    """The server's clock: the same time, shifted."""

    def __init__(self, clock, by):
        self._clock, self._by = clock, by

    def monotonic(self):
        return self._clock.monotonic()

    def wall(self):
        return self._clock.wall() + self._by

    async def sleep(self, seconds):
        await self._clock.sleep(seconds)


@given(st.integers(0, 2**32), st.lists(st.sampled_from([0.0, 0.4, 5.0, 29.0, 31.0, 100.0]), max_size=8))
def test_no_step_is_ever_sent_twice_whatever_time_passes_between(start, pauses):
    async def scenario():
        clock = ImpatientClock(wall=float(start) + random.Random(start).random())
        book = UsedCodeLedger(NOWHERE, clock=clock, warn=Collected())
        steps = []
        for pause in pauses:
            await clock.advance(pause)
            await book.reserve(SECRET)
            steps.append(int(clock.wall() // 30))
        assert steps == sorted(set(steps))

    asyncio.run(scenario())
