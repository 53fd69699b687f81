"""The cache of webhooks: no look at the record while one is known, and never an old one after a change."""

import asyncio
from typing import Any

import pytest

from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.sealing import CannotOpen, Sealer
from broadaxe_gateway.webhooks.definition import (
    Algorithm,
    Encoding,
    HmacAuth,
    Source,
    check_event_key_expression,
)
from broadaxe_gateway.webhooks.directory import (
    LOOKS_PER_SECOND,
    RECHECK_SECONDS,
    Changes,
    TooManyLooks,
    WebhookDirectory,
)
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.memory_webhooks import MemoryWebhooks
from broadaxe_storage.records_webhooks import WebhookRow
from tests.factories import TENANT, new_id
from tests.gateway.test_sealing import keyset

AUTH = HmacAuth(Algorithm.SHA256, Encoding.HEX, "X-Signature", "hush")
OTHER = "22222222-2222-4222-8222-222222222222"


class CountingStore(MemoryWebhooks):
    """Counts looks, can be away, and can be made to answer late."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.is_away = False
        self.gate: asyncio.Event | None = None
        self.is_looking = asyncio.Event()

    async def fetch_webhook(self, tenant_id: str, name: str) -> WebhookRow | None:
        self.looks += 1
        if self.is_away:
            raise Unavailable("away")
        found = await super().fetch_webhook(tenant_id, name)
        self.is_looking.set()
        if self.gate is not None:
            await self.gate.wait()
        return found


class Case:
    def __init__(self, *, most: int | None = None, sealer: Sealer | None = None) -> None:
        self.store = CountingStore()
        self.now = 1_000.0
        self.directory = WebhookDirectory(
            self.store, sealer or Sealer(keyset("a")), most=most, monotonic=lambda: self.now
        )

    async def create(self, name: str = "hook", tenant_id: str = TENANT, **fields: Any) -> WebhookRow:
        values = {
            "source": Source.GENERIC,
            "auth": AUTH,
            "event_key": check_event_key_expression("'key'"),
            "scope": None,
            "static_payload": None,
            "returns_event": True,
            "now": 1,
        }
        return await self.directory.create(tenant_id, webhook_id=new_id(), name=name, **(values | fields))


async def test_a_known_webhook_is_not_looked_up_again_for_a_while() -> None:
    case = Case()
    await case.create(static_payload='{"a":1}')
    for _ in range(3):
        webhook = await case.directory.find(TENANT, "hook")
        assert webhook is not None
        assert (webhook.auth, webhook.static_payload) == (AUTH, {"a": 1})
    assert case.store.looks == 1
    case.now += RECHECK_SECONDS
    await case.directory.find(TENANT, "hook")
    assert case.store.looks == 2
    assert await case.directory.find(OTHER, "hook") is None


async def test_a_change_counts_at_once() -> None:
    case = Case()
    assert await case.directory.find(TENANT, "hook") is None
    await case.create()
    assert await case.directory.find(TENANT, "hook") is not None
    await case.directory.update(TENANT, "hook", Changes(event_key_expression="'other'"), 2)
    webhook = await case.directory.find(TENANT, "hook")
    assert webhook is not None
    assert webhook.event_key.text == "'other'"
    await case.directory.delete(TENANT, "hook")
    assert await case.directory.find(TENANT, "hook") is None
    assert await case.directory.update(TENANT, "hook", Changes(), 3) is None


async def test_a_look_that_a_change_overtakes_is_not_kept() -> None:
    case = Case()
    await case.create()
    case.store.gate = asyncio.Event()
    looking = asyncio.create_task(case.directory.find(TENANT, "hook"))
    await case.store.is_looking.wait()
    await case.directory.delete(TENANT, "hook")
    case.store.gate.set()
    await looking
    assert await case.directory.find(TENANT, "hook") is None


async def test_callers_at_once_share_a_look() -> None:
    case = Case()
    await case.create()
    found = await asyncio.gather(*(case.directory.find(TENANT, "hook") for _ in range(50)))
    assert all(found)
    assert case.store.looks == 1


async def test_what_is_known_stays_good_while_postgres_is_away() -> None:
    case = Case()
    await case.create()
    await case.directory.find(TENANT, "hook")
    case.store.is_away = True
    case.now += RECHECK_SECONDS
    assert await case.directory.find(TENANT, "hook") is not None
    with pytest.raises(Unavailable):
        await case.directory.find(TENANT, "other")


async def test_unknown_names_are_rationed_and_known_ones_are_not() -> None:
    case = Case()
    await case.create()
    await case.directory.find(TENANT, "hook")
    for number in range(LOOKS_PER_SECOND - 1):
        assert await case.directory.find(TENANT, f"guess {number}") is None
    with pytest.raises(TooManyLooks):
        await case.directory.find(TENANT, "one more")
    case.now += RECHECK_SECONDS - 0.01
    assert await case.directory.find(TENANT, "hook") is not None
    assert await case.directory.find(TENANT, "one more") is None


async def test_a_name_is_taken_once_and_a_tenant_has_its_limit() -> None:
    case = Case(most=2)
    await case.create("a")
    with pytest.raises(Refused, match="name: webhook 'a' exists already") as raised:
        await case.create("a")
    assert raised.value.code is Code.ALREADY_EXISTS
    await case.create("b")
    with pytest.raises(Refused, match=r"2 of at most 2 .* SERVER_LIMITS_DEFAULT_INCOMING_WEBHOOK_LIMIT"):
        await case.create("c")
    await case.create("a", tenant_id=OTHER)
    await case.directory.delete(TENANT, "a")
    await case.create("c")


async def test_creations_at_once_do_not_pass_the_limit() -> None:
    case = Case(most=3)
    made = await asyncio.gather(
        *(case.create(f"hook {number}") for number in range(10)), return_exceptions=True
    )
    assert sum(isinstance(item, WebhookRow) for item in made) == 3


# ---------------------------------------------------------------- keys


async def test_a_rotated_keyset_seals_anew_at_start() -> None:
    old = Case(sealer=Sealer(keyset("old")))
    await old.create()
    assert b"hush" not in old.store.rows[TENANT, "hook"].secret
    rotated = WebhookDirectory(old.store, Sealer(keyset("new", "old")))
    assert await rotated.seal_anew() == 1
    assert await rotated.seal_anew() == 0
    after = WebhookDirectory(old.store, Sealer(keyset("new")))
    webhook = await after.find(TENANT, "hook")
    assert webhook is not None
    assert webhook.auth == AUTH


async def test_a_missing_key_is_told_by_webhook_and_setting(caplog: pytest.LogCaptureFixture) -> None:
    case = Case(sealer=Sealer(keyset("old")))
    await case.create()
    other = WebhookDirectory(case.store, Sealer(keyset("new")))
    assert await other.seal_anew() == 0
    expected = rf"webhook 'hook' of tenant {TENANT} is sealed with the key 'old', which SERVER_ENCRYPTION_MASTER_KEYSET"
    with pytest.raises(CannotOpen, match=expected):
        await other.find(TENANT, "hook")
    assert "SERVER_ENCRYPTION_MASTER_KEYSET" in caplog.text
    assert "hush" not in caplog.text
    # What cannot be opened can be deleted.
    assert await other.delete(TENANT, "hook") is not None
