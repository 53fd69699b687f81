"""What every store of webhooks does: one of a name in each tenant, changed only while it is the same one, one tenant's apart from another's.

A module that takes these tests has a fixture `webhooks`: a store that knows the tenants `TENANT` and `OTHER`.
"""

from typing import Any

import pytest

from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.records_webhooks import WebhookRow
from broadaxe_storage.webhooks import WebhookStore
from tests.factories import TENANT, new_id

OTHER = "22222222-2222-4222-8222-222222222222"
AT = 1_767_323_045_000_000

__all__ = [
    "test_a_deleted_webhook_is_gone_and_its_name_free",
    "test_a_webhook_is_changed_only_while_it_is_the_same",
    "test_a_webhook_of_an_unknown_tenant_or_kind_is_refused",
    "test_only_one_webhook_has_a_name",
    "test_secrets_sealed_with_other_keys_are_found_and_replaced",
    "test_webhooks_are_listed_newest_first_and_by_name_and_source",
]


def make_webhook(name: str = "hook", **fields: Any) -> WebhookRow:
    values = {
        "tenant_id": TENANT,
        "name": name,
        "id": new_id(),
        "source": "GENERIC",
        "auth_type": "HMAC",
        "event_key_expression": "'key'",
        "scope_expression": None,
        "static_payload": None,
        "returns_event": True,
        "key_id": "one",
        "secret": b"\x00sealed",
        "created_at": AT,
        "updated_at": AT,
    }
    return WebhookRow(**(values | fields))


async def test_only_one_webhook_has_a_name(webhooks: WebhookStore) -> None:
    first = make_webhook(scope_expression="input.a", static_payload='{"a": 1}', returns_event=False)
    assert await webhooks.insert_webhook(first)
    assert not await webhooks.insert_webhook(make_webhook())
    foreign = make_webhook(tenant_id=OTHER)
    assert await webhooks.insert_webhook(foreign)
    assert await webhooks.fetch_webhook(TENANT, "hook") == first
    assert await webhooks.fetch_webhook(OTHER, "hook") == foreign
    assert await webhooks.fetch_webhook(TENANT, "Hook") is None
    assert await webhooks.count_webhooks(TENANT) == 1


async def test_webhooks_are_listed_newest_first_and_by_name_and_source(webhooks: WebhookStore) -> None:
    rows = [
        make_webhook(f"hook {number}", created_at=AT + number, source="SLACK" if number % 2 else "STRIPE")
        for number in range(4)
    ]
    for row in (*rows, make_webhook(tenant_id=OTHER)):
        assert await webhooks.insert_webhook(row)
    assert await webhooks.list_webhooks(TENANT, limit=10) == rows[::-1]
    assert await webhooks.list_webhooks(TENANT, limit=2, offset=1) == [rows[2], rows[1]]
    assert await webhooks.list_webhooks(TENANT, sources=["SLACK"], limit=10) == [rows[3], rows[1]]
    named = await webhooks.list_webhooks(TENANT, names=["hook 2", "hook 3"], sources=["STRIPE"], limit=10)
    assert named == [rows[2]]


async def test_a_webhook_is_changed_only_while_it_is_the_same(webhooks: WebhookStore) -> None:
    row = make_webhook()
    await webhooks.insert_webhook(row)
    changed = row._replace(
        event_key_expression="'other'",
        scope_expression="input.s",
        static_payload="{}",
        returns_event=False,
        key_id="two",
        secret=b"new",
        updated_at=AT + 1,
    )
    assert await webhooks.update_webhook(changed)
    assert await webhooks.fetch_webhook(TENANT, "hook") == changed
    assert not await webhooks.update_webhook(row._replace(id=new_id()))
    assert not await webhooks.update_webhook(row._replace(tenant_id=OTHER))
    assert not await webhooks.update_webhook(row._replace(name="unknown"))
    assert await webhooks.fetch_webhook(TENANT, "hook") == changed


async def test_a_deleted_webhook_is_gone_and_its_name_free(webhooks: WebhookStore) -> None:
    row = make_webhook()
    await webhooks.insert_webhook(row)
    assert await webhooks.delete_webhook(OTHER, "hook") is None
    assert await webhooks.delete_webhook(TENANT, "hook") == row
    assert await webhooks.delete_webhook(TENANT, "hook") is None
    assert await webhooks.insert_webhook(make_webhook())


async def test_secrets_sealed_with_other_keys_are_found_and_replaced(webhooks: WebhookStore) -> None:
    old, current = make_webhook(key_id="old"), make_webhook(tenant_id=OTHER, key_id="new")
    for row in (old, current):
        await webhooks.insert_webhook(row)
    assert await webhooks.load_webhooks_of_other_keys("new") == [old]
    await webhooks.reseal_webhook(old._replace(secret=b"of before"), "new", b"sealed anew")
    assert await webhooks.load_webhooks_of_other_keys("new") == [old]
    await webhooks.reseal_webhook(old, "new", b"sealed anew")
    assert await webhooks.load_webhooks_of_other_keys("new") == []
    assert await webhooks.fetch_webhook(TENANT, "hook") == old._replace(key_id="new", secret=b"sealed anew")


@pytest.mark.parametrize("fields", [{"tenant_id": new_id()}, {"source": "GITLAB"}, {"auth_type": "NONE"}])
async def test_a_webhook_of_an_unknown_tenant_or_kind_is_refused(
    webhooks: WebhookStore, fields: dict[str, Any]
) -> None:
    with pytest.raises(RefusedRecords):
        await webhooks.insert_webhook(make_webhook(**fields))
    assert await webhooks.list_webhooks(TENANT, limit=10) == []
