"""Tokens: claims, every refusal, caching and revocation, on a clock of the test's own. The store is a fake that counts what it is asked."""

import asyncio
import base64
import json
import uuid

import jwt
import pytest

from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.keysets import generate_jwt_keyset, parse_jwt_keyset
from broadaxe_gateway.tokens import (
    DEFAULT_LIFETIME_SECONDS,
    RECHECK_SECONDS,
    Audience,
    TokenService,
    Unauthenticated,
    UnknownTenant,
    parse_lifetime,
)
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records_accounts import TenantRow

TENANT = "11111111-1111-4111-8111-111111111111"
AUDIENCE = Audience("http://127.0.0.1:8080", "127.0.0.1:7070")
KEYSET = parse_jwt_keyset(generate_jwt_keyset())


class FakeStore:
    def __init__(self) -> None:
        self.rows = {}
        self.fetches = 0
        self.is_away = False
        self.gate: asyncio.Event | None = None

    async def fetch_tenant(self, tenant_id):
        return TenantRow(tenant_id, "Default", "default", 0) if tenant_id == TENANT else None

    async def insert_token(self, row):
        self.rows[row.id] = row

    async def fetch_token(self, token_id):
        self.fetches += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.is_away:
            raise Unavailable("Postgres is away")
        return self.rows.get(token_id)

    async def revoke_token(self, tenant_id, token_id, at):
        row = self.rows.get(token_id)
        if row is None or row.tenant_id != tenant_id:
            return False
        self.rows[token_id] = row._replace(revoked_at=at)
        return True


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def clock():
    return Clock()


def make_service(store, clock, *, keyset=KEYSET, audience=AUDIENCE) -> TokenService:
    return TokenService(store, keyset, audience, now=clock, monotonic=clock)


@pytest.fixture
def service(store, clock):
    return make_service(store, clock)


def claims_of(token: str) -> dict:
    return jwt.decode(token, options={"verify_signature": False})


def sign(claims: dict, *, kid: str | None = KEYSET.signing_id, key=KEYSET.signing_key) -> str:
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": kid} if kid else {})


async def test_claims_are_those_that_sdks_read(service, store, clock):
    token = await service.issue(TENANT, "worker")
    claims = claims_of(token)
    assert claims == {
        "sub": TENANT,
        "aud": "http://127.0.0.1:8080",
        "iss": "http://127.0.0.1:8080",
        "iat": int(clock()),
        "exp": int(clock()) + DEFAULT_LIFETIME_SECONDS,
        "token_id": claims["token_id"],
        "server_url": "http://127.0.0.1:8080",
        "grpc_broadcast_address": "127.0.0.1:7070",
    }
    assert token.startswith("ey")
    assert token.count(".") == 2
    header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
    assert (header["alg"], header["kid"]) == ("ES256", KEYSET.signing_id)
    row = store.rows[claims["token_id"]]
    assert (row.tenant_id, row.name, row.expires_at) == (TENANT, "worker", claims["exp"] * 1_000_000)


async def test_issued_token_verifies_and_survives_a_restart(service, store, clock):
    token = await service.issue(TENANT, "worker")
    identity = await service.verify(token)
    assert identity.tenant_id == TENANT
    restarted = make_service(store, clock)
    assert await restarted.verify(token) == identity


async def test_unknown_tenant_and_senseless_lifetimes_are_refused(service, store):
    for tenant_id in (str(uuid.uuid4()), "none", ""):
        with pytest.raises(UnknownTenant):
            await service.issue(tenant_id, "x")
    for lifetime in (0, -1, 1e12):
        with pytest.raises(ValueError, match="live for"):
            await service.issue(TENANT, "x", lifetime)
    assert store.rows == {}


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "http://other:8080"},
        {"iss": "http://other:8080"},
        {"server_url": "http://other:8080"},
        {"iat": 1_800_000_100},
        {"exp": 1_799_999_999},
        {"exp": "soon"},
        {"token_id": "none"},
        {"token_id": "11111111-2222-4333-8444-555555555555"},
        {"sub": "none"},
        {"sub": "11111111-2222-4333-8444-555555555555"},
        {"sub": None},
        {"aud": 7},
        {"token_id": None},
    ],
    ids=str,
)
async def test_wrong_claim_is_refused(service, change):
    claims = {**claims_of(await service.issue(TENANT, "worker")), **change}
    token = sign({name: value for name, value in claims.items() if value is not None})
    with pytest.raises(Unauthenticated):
        await service.verify(token)


@pytest.mark.parametrize(
    "token", ["", "x", "a.b.c", "ey.ey.ey", "ey" * 5000, "\udc80.a.b", "eyJhbGciOiJub25lIn0.e30."]
)
async def test_malformed_token_is_refused_without_asking_the_store(service, store, token):
    with pytest.raises(Unauthenticated):
        await service.verify(token)
    assert store.fetches == 0


async def test_other_keys_and_algorithms_are_refused(service):
    claims = claims_of(await service.issue(TENANT, "worker"))
    other = parse_jwt_keyset(generate_jwt_keyset())
    forged = [
        sign(claims, key=other.signing_key),
        sign(claims, key=other.signing_key, kid=other.signing_id),
        sign(claims, kid=None),
        jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": KEYSET.signing_id}),
        jwt.encode(claims, None, algorithm="none", headers={"kid": KEYSET.signing_id}),
    ]
    for token in forged:
        with pytest.raises(Unauthenticated):
            await service.verify(token)


async def test_rotated_key_still_verifies(service, store, clock):
    token = await service.issue(TENANT, "worker")
    newer = json.loads(generate_jwt_keyset())["keys"]
    public_old = {"kty": "EC", "crv": "P-256", "kid": KEYSET.signing_id}
    numbers = KEYSET.signing_key.public_key().public_numbers()
    for name, number in (("x", numbers.x), ("y", numbers.y)):
        public_old[name] = base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
    public_new = {name: value for name, value in newer[0].items() if name != "d"}
    rotated = parse_jwt_keyset(
        json.dumps({"keys": newer}).encode(), json.dumps({"keys": [public_new, public_old]}).encode()
    )
    assert (await make_service(store, clock, keyset=rotated).verify(token)).tenant_id == TENANT


async def test_default_url_does_not_bind_tokens_to_a_port(store, clock):
    old = Audience("http://127.0.0.1:8080", "127.0.0.1:7070", is_port_compared=False)
    token = await make_service(store, clock, audience=old).issue(TENANT, "worker")
    moved = Audience("http://127.0.0.1:9999", "127.0.0.1:7171", is_port_compared=False)
    assert (await make_service(store, clock, audience=moved).verify(token)).tenant_id == TENANT
    for strict in (
        Audience("http://127.0.0.1:9999", "127.0.0.1:7171"),
        Audience("http://other:8080", "127.0.0.1:7070", is_port_compared=False),
    ):
        with pytest.raises(Unauthenticated):
            await make_service(store, clock, audience=strict).verify(token)


async def test_expiry_is_noticed_on_a_known_token(service, clock):
    token = await service.issue(TENANT, "worker", 60)
    await service.verify(token)
    clock.seconds += 60
    with pytest.raises(Unauthenticated, match="expired"):
        await service.verify(token, is_activity=False)


async def test_known_token_asks_the_store_at_most_every_five_seconds(service, store, clock):
    token = await service.issue(TENANT, "worker")
    for _ in range(100):
        await service.verify(token)
    assert store.fetches == 1
    clock.seconds += RECHECK_SECONDS
    await asyncio.gather(*(service.verify(token) for _ in range(100)))
    assert store.fetches == 2


async def test_heartbeats_of_an_idle_worker_never_ask_the_store(service, store, clock):
    token = await service.issue(TENANT, "worker")
    await service.verify(token)
    for _ in range(100):
        clock.seconds += 4
        await service.verify(token, is_activity=False)
    assert store.fetches == 1


async def test_revoked_elsewhere_stops_within_five_seconds(service, store, clock):
    token = await service.issue(TENANT, "worker")
    identity = await service.verify(token)
    await store.revoke_token(TENANT, identity.token_id, 1)
    clock.seconds += RECHECK_SECONDS
    with pytest.raises(Unauthenticated):
        await service.verify(token)


async def test_revoked_here_stops_at_once(service):
    token = await service.issue(TENANT, "worker")
    identity = await service.verify(token)
    assert await service.revoke(TENANT, identity.token_id) is True
    with pytest.raises(Unauthenticated):
        await service.verify(token, is_activity=False)
    assert await service.revoke(str(uuid.uuid4()), identity.token_id) is False


async def test_known_token_outlives_an_absent_database(service, store, clock):
    token = await service.issue(TENANT, "worker")
    await service.verify(token)
    store.is_away = True
    clock.seconds += RECHECK_SECONDS
    assert (await service.verify(token)).tenant_id == TENANT


async def test_slow_database_is_not_waited_for(service, store, clock, monkeypatch):
    monkeypatch.setattr("broadaxe_gateway.tokens.RECHECK_WAIT_SECONDS", 0.01)
    token = await service.issue(TENANT, "worker")
    await service.verify(token)
    store.gate = asyncio.Event()
    clock.seconds += RECHECK_SECONDS
    assert (await service.verify(token)).tenant_id == TENANT
    store.gate.set()


async def test_new_token_without_database_is_unavailable_not_unauthenticated(service, store):
    token = await service.issue(TENANT, "worker")
    store.is_away = True
    with pytest.raises(Refused) as caught:
        await service.verify(token)
    assert caught.value.code is Code.UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "seconds"), [("90d", 7_776_000), ("720h", 2_592_000), ("1h30m", 5400), ("45s", 45)]
)
def test_lifetimes_are_read(text, seconds):
    assert parse_lifetime(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "ninety", "5", "-1d", "1.5d"])
def test_senseless_lifetime_texts_are_refused(text):
    with pytest.raises(ValueError, match="not a lifetime"):
        parse_lifetime(text)


async def test_a_look_at_the_row_that_began_before_the_revocation_does_not_undo_it(store, clock):
    service = make_service(store, clock)
    token = await service.issue(TENANT, "ci")
    identity = await service.verify(token)
    row = store.rows[identity.token_id]
    clock.seconds += RECHECK_SECONDS
    store.gate = asyncio.Event()
    checking = asyncio.create_task(service.verify(token))
    learning = asyncio.create_task(make_service(store, clock).verify(token))
    await asyncio.sleep(0)
    assert await service.revoke(TENANT, identity.token_id)
    store.rows[identity.token_id] = row  # what a slow read still returns
    store.gate.set()
    with pytest.raises(Unauthenticated):
        await checking
    with pytest.raises(Unauthenticated):
        await service.verify(token)
    assert (await learning).token_id == identity.token_id


async def test_who_has_something_open_with_a_token_is_told_of_its_end(store, clock):
    service = make_service(store, clock)
    ended = []
    service.on_revoked = ended.append
    here, elsewhere = [await service.verify(await service.issue(TENANT, "ci")) for _ in range(2)]
    assert await service.revoke(TENANT, here.token_id)
    assert not await service.revoke(str(uuid.uuid4()), elsewhere.token_id)
    assert ended == [here.token_id]
