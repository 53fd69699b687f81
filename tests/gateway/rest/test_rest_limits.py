"""Rate limits over REST."""

import pytest

from broadaxe_actors.messages import DeleteRateLimit
from broadaxe_actors.rate_limits import WINDOWS_US
from broadaxe_storage.summaries import RateLimitQuery
from tests.factories import make_rate_limit
from tests.gateway.rest import official
from tests.gateway.rest.fakes import NOW, NOW_TEXT, OTHER_TENANT, TENANT, now_us

LIMITS = f"/api/v1/tenants/{TENANT}/rate-limits"


def limit(key="k", **fields):
    return make_rate_limit(key, tenant_id=TENANT)._replace(**fields)


async def test_rate_limits_are_listed_with_the_units_that_are_there_now(rest):
    now = now_us()
    rest.record.limits += [
        limit("running", window_start=now, units_left=4),
        limit("over", window_start=NOW, units_left=0, window_us=WINDOWS_US["SECOND"]),
        limit("paused", window_start=now, paused_until=now + 60_000_000),
        limit("was paused", window_start=now, paused_until=NOW),
        limit("never put", limit_value=None, units_left=0, paused_until=now + 60_000_000),
        limit("foreign")._replace(tenant_id=OTHER_TENANT),
    ]
    body = await rest.get_json(LIMITS)
    official.RateLimitList.from_dict(body)
    rows = {row["key"]: row for row in body["rows"]}
    assert list(rows) == ["running", "over", "paused", "was paused", "never put"]
    assert {key: (row["limitValue"], row["value"]) for key, row in rows.items()} == {
        "running": (10, 4),
        "over": (10, 10),
        "paused": (10, 4),
        "was paused": (10, 4),
        "never put": (0, 0),
    }
    assert rows["over"] == {
        "key": "over",
        "tenantId": TENANT,
        "limitValue": 10,
        "value": 10,
        "window": "1 second",
        "lastRefill": NOW_TEXT,
    }
    assert rows["running"]["window"] == "1 minute"
    assert [key for key, row in rows.items() if "pausedUntil" in row] == ["paused", "never put"]
    assert body["pagination"] == {"current_page": 1, "next_page": 1, "num_pages": 1}


async def test_rate_limits_are_paged_and_searched(rest):
    rest.record.limits += [limit(f"user:{number}") for number in range(60)]
    body = await rest.get_json(LIMITS)
    assert len(body["rows"]) == 50
    assert body["pagination"] == {"current_page": 1, "next_page": 2, "num_pages": 2}
    body = await rest.get_json(LIMITS, offset=20, limit=20, search="user")
    assert [row["key"] for row in body["rows"]] == [f"user:{number}" for number in range(20, 40)]
    assert body["pagination"] == {"current_page": 2, "next_page": 3, "num_pages": 3}
    assert len((await rest.get_json(LIMITS, limit=-1))["rows"]) == 50
    assert (await rest.get_json(LIMITS, search="nobody"))["rows"] == []


@pytest.mark.parametrize(
    ("given", "query"),
    [
        ({}, RateLimitQuery()),
        (
            {"search": "a", "orderByField": "key", "orderByDirection": "desc"},
            RateLimitQuery("a", "key", True),
        ),
        ({"orderByField": "value"}, RateLimitQuery("", "value", False)),
        ({"orderByField": "limitValue", "orderByDirection": "asc"}, RateLimitQuery("", "limit", False)),
    ],
)
async def test_order_is_as_asked(rest, given, query):
    await rest.get_json(LIMITS, **given)
    assert rest.record.queries[0] == query


@pytest.mark.parametrize(
    ("name", "value"),
    [("orderByField", "colour"), ("orderByDirection", "up"), ("limit", 10_001), ("offset", -1)],
)
async def test_what_a_listing_cannot_do_is_refused(rest, name, value):
    answer = await rest.get(LIMITS, **{name: value})
    assert answer.status_code == 400
    assert name in answer.text


async def test_a_rate_limit_is_deleted_by_the_engine(rest):
    answer = await rest.client.delete(LIMITS, params={"key": "a b/\u00e4"})
    assert (answer.status_code, answer.content) == (204, b"")
    assert rest.engine.asked == [(DeleteRateLimit, TENANT, "a b/\u00e4")]


@pytest.mark.parametrize(
    ("query", "text"),
    [("", "key"), ("?key=", "empty"), ("?key=%00", "null"), (f"?key={'x' * 10_001}", "10,001")],
)
async def test_a_deletion_needs_a_key(rest, query, text):
    answer = await rest.client.delete(LIMITS + query)
    assert answer.status_code == 400
    assert text in answer.text
    assert not rest.engine.asked


async def test_rate_limits_of_another_tenant_are_out_of_reach(rest):
    foreign = f"/api/v1/tenants/{OTHER_TENANT}/rate-limits"
    assert (await rest.get(foreign)).status_code == 403
    assert (await rest.client.delete(foreign, params={"key": "k"})).status_code == 403
    assert not rest.engine.asked
