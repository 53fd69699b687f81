"""The limits of a tenant over REST."""

from broadaxe_actors.messages import GetUsage, GetWorkerUsage
from broadaxe_actors.resource_limits import Resource, ResourceLimit, ResourceUsage
from tests.gateway.rest.fakes import NOW, NOW_TEXT, OTHER_TENANT, TENANT, Rest
from tests.gateway.rest.test_rest_webhooks import body_of

PATH = f"/api/v1/tenants/{TENANT}/resource-policy"


async def test_without_enforcement_nothing_is_limited_and_nobody_asked(rest: Rest) -> None:
    assert await rest.get_json(PATH) == {"limits": []}
    assert not rest.engine.asked


async def test_limits_and_what_is_used_of_them() -> None:
    rest = Rest(
        SERVER_ENFORCE_LIMITS="true",
        SERVER_LIMITS_DEFAULT_EVENT_LIMIT="10",
        SERVER_LIMITS_DEFAULT_WORKER_LIMIT="-1",
        SERVER_LIMITS_DEFAULT_INCOMING_WEBHOOK_LIMIT="2",
    )
    event = ResourceLimit(Resource.EVENT, 10, 7, 86_400_000_000, "x")
    slots = ResourceLimit(Resource.WORKER_SLOT, 4_000, 3_000, None, "x")
    rest.engine.answers |= {
        GetUsage: (ResourceUsage(event, 3, NOW),),
        GetWorkerUsage: (ResourceUsage(slots, 100, None),),
    }
    assert (await rest.post(f"/api/v1/stable/tenants/{TENANT}/webhooks", body_of())).status_code == 200
    found = {item["resource"]: item for item in (await rest.get_json(PATH))["limits"]}
    assert list(found) == ["WORKER_SLOT", "EVENT", "CRON", "SCHEDULE", "INCOMING_WEBHOOK"]
    ids = {item.pop("metadata")["id"] for item in found.values()}
    assert len(ids) == 5
    assert (found["CRON"]["value"], found["SCHEDULE"]["value"]) == (2, 3)
    assert found["EVENT"] == {
        "resource": "EVENT",
        "limitValue": 10,
        "alarmValue": 7,
        "value": 3,
        "window": "24h",
        "lastRefill": NOW_TEXT,
    }
    assert found["WORKER_SLOT"] == {
        "resource": "WORKER_SLOT",
        "limitValue": 4_000,
        "alarmValue": 3_000,
        "value": 100,
    }
    assert (found["INCOMING_WEBHOOK"]["value"], found["INCOMING_WEBHOOK"]["limitValue"]) == (1, 2)
    await rest.client.aclose()


async def test_another_tenants_limits_are_not_shown(rest: Rest) -> None:
    assert (await rest.get(PATH.replace(TENANT, OTHER_TENANT))).status_code == 403
    assert (await rest.client.get(PATH, headers={"Authorization": "Bearer foreign"})).status_code == 403
