"""What every store does with rate limits: written within a flush, found by key, one tenant's apart from another's."""

from typing import Any

import pytest

from broadaxe_storage.errors import Fenced, RefusedRecords
from broadaxe_storage.records import RateLimitDrop
from tests.conformance.store_suite import Store, Writer
from tests.factories import TENANT, make_rate_limit, make_task_run, new_id

BAD_LIMITS: tuple[dict[str, Any], ...] = (
    {"limit_value": -1, "units_left": 0},
    {"units_left": -1},
    {"units_left": 11},
    {"limit_value": None, "units_left": 1},
    {"window_us": 0},
    {"limit_value": 1 << 63},
    {"key": "a\x00b"},
    {"key": "\ud800"},
    {"tenant_id": "no-id"},
)


async def test_rate_limits_are_replaced_and_dropped_by_key(writer: Writer) -> None:
    first, other = make_rate_limit("a"), make_rate_limit("b", limit_value=None, units_left=0, paused_until=5)
    foreign = make_rate_limit("a", tenant_id=new_id(), units_left=1)
    await writer.commit(rate_limits=[first, other, foreign])
    later = first._replace(
        limit_value=20,
        window_us=1_000_000,
        window_start=first.window_start + 1,
        units_left=3,
        paused_until=first.window_start + 2,
        timeline=(1 << 63) - 1,
        monotonic_start=7,
        updated_at=first.updated_at + 1,
    )
    await writer.commit(rate_limits=[first, later])
    found = await writer.store.fetch_rate_limits(TENANT, ["a", "b", "a", "unknown"])
    assert sorted(found) == [later, other]
    assert await writer.store.fetch_rate_limits(foreign.tenant_id, ["a", "b"]) == [foreign]
    await writer.commit(dropped_rate_limits=[RateLimitDrop(TENANT, "a"), RateLimitDrop(TENANT, "unknown")])
    assert await writer.store.fetch_rate_limits(TENANT, ["a", "b"]) == [other]
    assert await writer.store.fetch_rate_limits(foreign.tenant_id, ["a"]) == [foreign]


async def test_keys_of_rate_limits_may_be_long_and_of_any_letters(writer: Writer) -> None:
    rows = [
        make_rate_limit(key) for key in ("\u00e4 '%_\\\U0001f600", "x" * 10_000, "x" * 9_999, "X" * 9_999)
    ]
    await writer.commit(rate_limits=rows)
    for row in rows:
        assert await writer.store.fetch_rate_limits(TENANT, [row.key]) == [row]


async def test_rate_limits_commit_with_their_flush_or_not_at_all(writer: Writer, store: Store) -> None:
    run, row = make_task_run(), make_rate_limit()
    await writer.commit(created=[run], rate_limits=[row])
    assert [found.id for found in await store.fetch_live(TENANT, [run.id])] == [run.id]
    with pytest.raises(RefusedRecords):
        await writer.commit(created=[run], rate_limits=[row._replace(units_left=0)])
    assert await store.fetch_rate_limits(TENANT, ["k"]) == [row]
    stale = Writer(store, writer.epoch)
    await store.open_shards()
    with pytest.raises(Fenced):
        await stale.commit(rate_limits=[row._replace(units_left=0)])
    with pytest.raises(Fenced):
        await stale.commit(dropped_rate_limits=[RateLimitDrop(TENANT, "k")])
    assert await store.fetch_rate_limits(TENANT, ["k"]) == [row]


@pytest.mark.parametrize(
    "fields", BAD_LIMITS, ids=lambda fields: str(fields).encode("ascii", "replace").decode()
)
async def test_a_rate_limit_that_a_column_would_not_take_is_refused(
    writer: Writer, fields: dict[str, Any]
) -> None:
    with pytest.raises(RefusedRecords):
        await writer.commit(rate_limits=[make_rate_limit()._replace(**fields)])
    assert await writer.store.fetch_rate_limits(TENANT, ["k"]) == []


async def test_many_rate_limits_go_in_one_flush_beside_many_runs(writer: Writer) -> None:
    rows = [make_rate_limit(f"k{number}") for number in range(500)]
    await writer.commit(created=[make_task_run() for _ in range(500)], rate_limits=rows)
    found = await writer.store.fetch_rate_limits(TENANT, [row.key for row in rows])
    assert sorted(found) == sorted(rows)
