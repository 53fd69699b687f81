"""kill -9 of the engine while crons tick and scheduled runs come due: each scheduled run makes one run, each tick at most one, none early."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from broadaxe.wire import workflows_pb2 as v0
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.wire import Wire, unique
from tests.processes import Server, closing, server_directory, wait_until
from tests.rest import Rest

pytestmark = pytest.mark.timeout(180)
SCHEDULED = 240
OVER_SECONDS = 8.0


@pytest.fixture
def server() -> Iterator[Server]:
    with server_directory() as directory, closing(one := Server(directory)):
        yield one.start()


def now() -> datetime:
    return datetime.now(UTC)


async def test_kills_around_due_times_leave_each_scheduled_run_once_and_each_tick_at_most_once(
    server: Server,
) -> None:
    name = unique("timed")
    wire = Wire(server.grpc_address, server.token)
    task = v1.CreateTaskOpts(readable_id="only", action=f"{name}:only", timeout="60s", schedule_timeout="5m")
    wire.put(v1.CreateWorkflowVersionRequest(name=name, cron_triggers=["* * * * * *"], tasks=[task]))
    begun = now() + timedelta(seconds=0.5)
    request = v0.ScheduleWorkflowRequest(name=name, input="{}")
    for number in range(SCHEDULED):
        request.schedules.add().FromDatetime(begun + timedelta(seconds=OVER_SECONDS * number / SCHEDULED))
    answer = wire.unary("/WorkflowService/ScheduleWorkflow", request, v0.WorkflowVersion)
    ids = [item.id for item in answer.scheduled_workflows]
    assert len(ids) == SCHEDULED
    wire.close()
    for pause in (1.3, 0.9, 1.7):
        await asyncio.sleep(pause)  # where the kill falls among due times is the subject
        server.kill9()
        server.start()
    end = begun + timedelta(seconds=OVER_SECONDS + 0.5)
    wait_until(lambda: now() > end, what="the last time", timeout=60)
    rest = Rest(server.http_url, server.token)
    path = f"tenants/{rest.tenant}/workflows/scheduled"
    wait_until(
        lambda: rest.get(path, statuses=["SCHEDULED"])["rows"] == [], what="all to have fired", timeout=20
    )
    rest.close()

    connection = await server.connect_postgres()
    try:
        rows = await connection.fetch(
            "SELECT s.id::text, s.run_id::text, s.trigger_at, r.created_at FROM scheduled_run AS s"
            " LEFT JOIN task_run AS r ON r.id = s.run_id"
        )
        runs = await connection.fetch("SELECT id::text, created_at, metadata FROM task_run")
    finally:
        await connection.close()
    assert {row["id"] for row in rows} == set(ids)
    assert len({row["run_id"] for row in rows}) == SCHEDULED
    assert all(row["created_at"] is not None and row["created_at"] >= row["trigger_at"] for row in rows)
    ticks = Counter(
        row["metadata"].split('"hatchet__cron_scheduled_at": "')[1].split('"')[0]
        for row in runs
        if "hatchet__cron_scheduled_at" in row["metadata"]
    )
    assert set(ticks.values()) == {1}
    assert len(ticks) >= 4
    assert len(runs) == SCHEDULED + len(ticks)
