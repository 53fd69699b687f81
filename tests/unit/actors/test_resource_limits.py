"""Limits of tenants: windows, what is refused and with which words; the actors that count."""

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import GetWorkerUsage, Refusal, RegisterWorker, Reply
from broadaxe_actors.resource_limits import (
    Meter,
    Resource,
    ResourceLimit,
    ResourceUsage,
    Usage,
    check_room,
    window_text,
)
from broadaxe_actors.runtime.testing import Probe, peer
from broadaxe_actors.settings import ShardSettings
from broadaxe_actors.worker_registry import WorkerRegistry
from broadaxe_storage.records import WorkerStatus
from tests.factories import TENANT, make_worker

HOUR = 3_600_000_000
DAY = 24 * HOUR
NOW = 20_000 * DAY + 5 * HOUR


def limit_of(
    resource: Resource, limit: int, window: int | None = DAY, alarm: int | None = None
) -> ResourceLimit:
    return ResourceLimit(resource, limit, alarm, window, f"SERVER_LIMITS_DEFAULT_{resource}_LIMIT")


def test_a_window_gives_its_limit_and_begins_anew_at_midnight() -> None:
    meter = Meter(limit_of(Resource.EVENT, 3), TENANT)
    meter.take(2, NOW)
    with pytest.raises(Refused) as raised:
        meter.take(2, NOW)
    assert raised.value.code is Code.RESOURCE_EXHAUSTED
    assert raised.value.message == (
        f"tenant {TENANT} has used 2 of at most 3 of resource EVENT in 24h, and 2 more would be too much: try again after "
        "2024-10-05T00:00:00Z, or have SERVER_LIMITS_DEFAULT_EVENT_LIMIT raised"
    )
    meter.take(1, NOW)
    meter.take(0, NOW)
    assert meter.usage(NOW) == ResourceUsage(meter.limit, 3, 20_000 * DAY)
    with pytest.raises(Refused):
        meter.take(1, 20_001 * DAY - 1)
    meter.take(3, 20_001 * DAY)
    assert meter.began_at(20_001 * DAY) == 20_001 * DAY


def test_what_is_given_back_can_be_used_and_not_more() -> None:
    meter = Meter(limit_of(Resource.EVENT, 3), TENANT)
    meter.take(3, NOW)
    meter.give_back(2, NOW)
    assert meter.value(NOW) == 1
    meter.give_back(5, NOW)
    assert meter.value(NOW) == 0
    # Taken in a window that is over.
    meter.take(1, NOW + DAY)
    meter.give_back(1, NOW + DAY)
    assert meter.value(NOW + DAY) == 0


def test_an_alarm_is_heard_once_a_window(caplog: pytest.LogCaptureFixture) -> None:
    meter = Meter(limit_of(Resource.TASK_RUN, 10, alarm=3), TENANT)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            meter.take(1, NOW)
        assert len(caplog.records) == 1
        assert "uses 3 of at most 10 of resource TASK_RUN in 24h" in caplog.text
        meter.take(3, NOW + DAY)
    assert len(caplog.records) == 2


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30), st.booleans()), max_size=40))
def test_no_window_gives_more_than_its_limit(steps: list[tuple[int, int, bool]]) -> None:
    meter = Meter(limit_of(Resource.EVENT, 7, window=10), TENANT)
    now, taken = 0, {}
    for count, later, is_kept in steps:
        now += later
        try:
            meter.take(count, now)
        except Refused:
            continue
        if is_kept:
            taken[now // 10] = taken.get(now // 10, 0) + count
        else:
            meter.give_back(count, now)
    assert all(count <= 7 for count in taken.values())
    assert meter.value(now) == taken.get(now // 10, 0)


def test_several_resources_are_taken_together_or_not_at_all() -> None:
    limits = {
        Resource.EVENT: limit_of(Resource.EVENT, 5),
        Resource.TASK_RUN: limit_of(Resource.TASK_RUN, 2),
    }
    usage = Usage(limits, TENANT, Resource.EVENT, Resource.TASK_RUN)
    assert usage
    usage.take({Resource.EVENT: 1, Resource.TASK_RUN: 2}, NOW)
    with pytest.raises(Refused, match="resource TASK_RUN"):
        usage.take({Resource.EVENT: 1, Resource.TASK_RUN: 1}, NOW)
    usage.take({Resource.EVENT: 1}, NOW)
    assert [item.value for item in usage.usages(NOW)] == [2, 2]
    assert not Usage({}, TENANT, Resource.EVENT)
    Usage({}, TENANT, Resource.EVENT).take({Resource.EVENT: 10**9}, NOW)


def test_room_of_what_the_record_counts() -> None:
    limits = {Resource.CRON: limit_of(Resource.CRON, 5, window=None)}
    check_room(limits, Resource.CRON, TENANT, 4)
    check_room(limits, Resource.SCHEDULE, TENANT, 10**9)
    with pytest.raises(
        Refused, match=r"has used 5 of at most 5 of resource CRON, and 1 more would be too much: remove some"
    ):
        check_room(limits, Resource.CRON, TENANT, 5)


def test_windows_are_told_as_they_are_set() -> None:
    assert [window_text(us) for us in (DAY, 90 * 60_000_000, 1_000_000, 1_500_000, None)] == [
        "24h",
        "90m",
        "1s",
        "1500ms",
        None,
    ]


# ---------------------------------------------------------------- workers


def registry_of(**limits: int) -> tuple[Probe, Any]:
    found = {Resource(name): limit_of(Resource(name), limit, window=None) for name, limit in limits.items()}
    settings = ShardSettings(limits=found)
    registry = Probe(WorkerRegistry, TENANT, None, settings, peer("queue"), peer("tracker"))
    return registry, peer("gateway")


class FakeRuntime:
    def spawn(self, *_: Any, **__: Any) -> Any:
        return peer("worker")


def register(registry: Probe, gateway: Any, number: int, slots: int = 10) -> Any:
    registry.actor._runtime = FakeRuntime()
    request = RegisterWorker(number, TENANT, "w", ("a:b",), (("default", slots),), (), "{}", True)
    return registry.call("register", gateway, request)


def answer_of(said: Any) -> Any:
    return next(sent.args[0][0] for sent in (*said.sends, *said.effects) if sent.method == "deliver")


def usage_of(registry: Probe, gateway: Any) -> list[int]:
    said = registry.call("get_usage", gateway, GetWorkerUsage(9, TENANT))
    return [item.value for item in answer_of(said).value]


def test_workers_and_slots_are_limited_and_lost_ones_count_no_more() -> None:
    registry, gateway = registry_of(WORKER=2, WORKER_SLOT=25)
    first = answer_of(register(registry, gateway, 1))
    assert isinstance(first, Reply)
    refusal = answer_of(register(registry, gateway, 2, slots=16))
    assert isinstance(refusal, Refusal)
    assert refusal.code is Code.RESOURCE_EXHAUSTED
    assert "10 of at most 25 of resource WORKER_SLOT, and 16 more" in refusal.message
    assert isinstance(answer_of(register(registry, gateway, 3)), Reply)
    assert "resource WORKER," in answer_of(register(registry, gateway, 4, slots=1)).message
    assert usage_of(registry, gateway) == [2, 20]
    registry.call("set_active", first.value, None)
    assert usage_of(registry, gateway) == [1, 10]
    assert isinstance(answer_of(register(registry, gateway, 5)), Reply)
    registry.call("set_active", first.value, 10)
    assert usage_of(registry, gateway) == [3, 30]
    registry.call("forget_worker", first.value)
    assert usage_of(registry, gateway) == [2, 20]


def test_workers_of_the_record_count_unless_they_are_lost() -> None:
    registry, gateway = registry_of(WORKER=2)
    registry.actor._runtime = FakeRuntime()
    rows = [make_worker(status=status) for status in (WorkerStatus.ACTIVE, WorkerStatus.LOST)]
    registry.call("restore", rows, peer("supervisor"))
    assert usage_of(registry, gateway) == [1]


def test_without_limits_nothing_is_counted() -> None:
    registry, gateway = registry_of()
    for number in range(20):
        assert isinstance(answer_of(register(registry, gateway, number + 1)), Reply)
    assert usage_of(registry, gateway) == []
    assert not registry.actor._active
