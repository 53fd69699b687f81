"""What stands behind people, each part alone: their settings, sessions, the hashing of passwords, the limits by client, the headers."""

import asyncio
import ipaddress
import threading

import httpx
import pytest
from fastapi import FastAPI, Response

from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway import passwords
from broadaxe_gateway.config import load_config
from broadaxe_gateway.http.headers import SafeHeaders
from broadaxe_gateway.http.throttle import client_of
from broadaxe_gateway.keysets import MasterKeyset
from broadaxe_gateway.passwords import PasswordWork, hash_password
from broadaxe_gateway.sessions import (
    LIFETIME_SECONDS,
    Sessions,
    cookie_secrets,
    csrf_token,
    is_csrf_token,
)
from broadaxe_gateway.settings import ConfigError
from broadaxe_storage.memory import MemoryStore
from broadaxe_storage.records_accounts import UserRow
from tests.factories import new_id

# ---------------------------------------------------------------- settings


def test_settings_of_people_are_read():
    auth = load_config(
        {
            "SERVER_AUTH_BASIC_AUTH_ENABLED": "false",
            "SERVER_AUTH_SET_EMAIL_VERIFIED": "t",
            "SERVER_AUTH_RESTRICTED_EMAIL_DOMAINS": "@Corp.example, other.example",
            "SERVER_AUTH_COOKIE_NAME": "axe",
            "SERVER_AUTH_COOKIE_DOMAIN": ".Broadaxe.example:8080",
            "SERVER_AUTH_COOKIE_SECRETS": "0123456789abcdef fedcba9876543210",
            "SERVER_AUTH_COOKIE_INSECURE": "t",
            "SERVER_MAX_PENDING_INVITES": "7",
            "BROADAXE_HTTP_RATE_LIMIT": "2.5",
            "BROADAXE_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        }
    ).auth
    assert not auth.is_basic_auth_enabled
    assert auth.sets_email_verified
    assert auth.email_domains == ("corp.example", "other.example")
    assert (auth.cookie_name, auth.cookie_domain, auth.is_cookie_insecure) == (
        "axe",
        "broadaxe.example",
        True,
    )
    assert auth.cookie_secrets == (b"0123456789abcdef", b"fedcba9876543210")
    assert "0123456789abcdef" not in repr(auth)
    assert (auth.max_pending_invites, auth.requests_per_second) == (7, 2.5)
    assert auth.trusted_proxies == (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128"))


@pytest.mark.parametrize("domain", ["localhost", "localhost:8080", "127.0.0.1", "10.1.2.3:80"])
def test_what_browsers_take_for_no_domain_is_left_out(domain):
    assert load_config({"SERVER_AUTH_COOKIE_DOMAIN": domain}).auth.cookie_domain == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVER_AUTH_COOKIE_SECRETS", "short"),
        ("SERVER_AUTH_COOKIE_NAME", "a;b"),
        ("SERVER_AUTH_COOKIE_DOMAIN", "a/b"),
        ("SERVER_AUTH_RESTRICTED_EMAIL_DOMAINS", "a@b"),
        ("SERVER_MAX_PENDING_INVITES", "-1"),
        ("BROADAXE_HTTP_RATE_LIMIT", "many"),
        ("BROADAXE_TRUSTED_PROXIES", "10.0.0.0/33"),
        ("SERVER_ALLOW_SIGNUP", "maybe"),
    ],
)
def test_mistakes_name_the_setting(name, value):
    with pytest.raises(ConfigError) as refused:
        load_config({name: value})
    (problem,) = refused.value.problems
    assert problem.startswith(name)
    if name.endswith("SECRETS"):
        assert value not in problem


def test_a_password_that_everybody_knows_is_warned_of():
    def warned(**settings):
        settings["SERVER_TLS_STRATEGY"] = "none"
        return any("ADMIN_PASSWORD" in notice for notice in load_config(settings).notices)

    assert warned(BROADAXE_HOST="0.0.0.0")
    assert not warned(BROADAXE_HOST="127.0.0.1")
    assert not warned(BROADAXE_HOST="0.0.0.0", ADMIN_PASSWORD="Own-Secret-1")


def test_what_is_not_there_is_said():
    notices = load_config({"SERVER_AUTH_GOOGLE_ENABLED": "true"}).notices
    assert any("SERVER_AUTH_GOOGLE_ENABLED" in notice for notice in notices)


# ---------------------------------------------------------------- sessions


class Clock:
    seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


async def begun(*secrets: bytes):
    store, clock = MemoryStore(), Clock()
    user = UserRow(new_id(), "a@example.com", "A", None, 0)
    await store.insert_user(user)
    sessions = Sessions(store, secrets, now=clock)
    person = await sessions.begin(user)
    assert person is not None
    return sessions, person, store, clock


async def test_a_session_lasts_thirty_days():
    sessions, person, _, clock = await begun(b"one")
    cookie = sessions.cookie(person)
    clock.seconds += LIFETIME_SECONDS - 1
    assert await sessions.find(cookie) == person
    clock.seconds += 1
    assert await sessions.find(cookie) is None


async def test_secrets_are_rotated_by_putting_the_new_one_in_front():
    _, person, store, clock = await begun(b"one")
    cookie = Sessions(store, (b"one",)).cookie(person)
    assert await Sessions(store, (b"two", b"one"), now=clock).find(cookie) == person
    assert await Sessions(store, (b"two",), now=clock).find(cookie) is None


async def test_what_was_not_signed_here_asks_nothing_of_the_record():
    sessions, person, store, _ = await begun(b"one")

    async def fetched(*_: object) -> None:
        raise AssertionError("the record was asked")

    store.fetch_session_user = fetched
    forged = Sessions(store, (b"two",)).cookie(person)
    for cookie in (forged, "", ".", "x" * 87, "\u00fc" * 87, f"{'=' * 43}.{'=' * 43}", forged + "A"):
        assert await sessions.find(cookie) is None


async def test_the_record_does_not_hold_what_opens_it():
    sessions, person, store, _ = await begun(b"one")
    (row,) = store.disk.sessions.values()
    assert person.token not in row
    assert row.token_hash.hex() not in sessions.cookie(person)
    assert person.token.hex() not in repr(person)
    assert repr(person.token) not in repr(person)


async def test_the_proof_belongs_to_one_session():
    sessions, person, _, _ = await begun(b"one")
    other = await sessions.begin(person.user)
    assert is_csrf_token(person, csrf_token(person))
    for shown in (csrf_token(other), "", "\u00fc", sessions.cookie(person)):
        assert not is_csrf_token(person, shown)


def test_without_configured_secrets_they_come_from_the_master_keys():
    master = MasterKeyset("b", {"a": b"1" * 32, "b": b"2" * 32})
    first, second = cookie_secrets((), master)
    assert cookie_secrets((), MasterKeyset("b", {"b": b"2" * 32})) == (first,)
    assert second != first
    assert b"1" * 32 not in (first, second)
    assert cookie_secrets((b"given",), master) == (b"given",)


# ---------------------------------------------------------------- passwords


@pytest.fixture
def work():
    made = PasswordWork(at_once=1, most_waiting=2)
    yield made
    made.close()


async def test_without_a_hash_the_same_work_is_done(work, monkeypatch):
    checked = []
    real = passwords.is_password
    monkeypatch.setattr(passwords, "is_password", lambda *given: checked.append(given) or real(*given))
    stored = hash_password("Secret123")
    assert await work.is_password("Secret123", stored)
    assert not await work.is_password("Secret123", None)
    assert not await work.is_password("Wrong", stored)
    assert len(checked) == 3
    assert checked[1][1].startswith("$argon2id$")


async def test_past_what_may_wait_it_refuses_and_goes_on_afterwards(work, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(passwords, "hash_password", lambda _: gate.wait(10) and "hash")
    waiting = [asyncio.create_task(work.hash("a")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Refused) as refused:
        await work.hash("b")
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    gate.set()
    assert await asyncio.gather(*waiting) == ["hash", "hash"]
    assert await work.hash("b") == "hash"


# ---------------------------------------------------------------- clients

PROXIES = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, 10.9.9.9"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1", "10.9.9.9"], "198.51.100.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["x" * 1000], "x" * 64),
        ("::ffff:192.0.2.1", [], "192.0.2.1"),
        ("2001:db8:1:2:3::4", [], "2001:db8:1:2::/64"),
        ("fd00::1", ["2001:db8:1:2:3::4"], "2001:db8:1:2::/64"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_a_client_is_who_no_trusted_proxy_is(peer, forwarded, client):
    assert client_of(peer, forwarded, PROXIES) == client


# ---------------------------------------------------------------- headers


async def test_answers_of_the_api_are_for_nobody_else():
    app = FastAPI()
    app.add_middleware(SafeHeaders)

    @app.get("/api/a")
    async def plain() -> Response:
        return Response(headers={"Cache-Control": "max-age=5"})

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        page, missing, chosen = [await client.get(path) for path in ("/", "/api/b", "/api/a")]
    for answer in (page, missing, chosen):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
    assert "Cache-Control" not in page.headers
    assert missing.headers["Cache-Control"] == "no-store"
    assert chosen.headers["Cache-Control"] == "max-age=5"
