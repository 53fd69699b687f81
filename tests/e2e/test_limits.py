"""Limits of a tenant on a real server: what goes past them is refused, in words, also after a restart; without them nothing is."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import grpc
import httpx
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire import events_pb2 as events
from broadaxe.wire import workflows_pb2 as workflows
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.wire import BareWorker, Wire, code_of
from tests.processes import Server, closing, server_directory, wait_until
from tests.rest import Rest

pytestmark = pytest.mark.timeout(180)
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
SMALL = {
    "SERVER_ENFORCE_LIMITS": "true",
    "SERVER_LIMITS_DEFAULT_EVENT_LIMIT": "4",
    "SERVER_LIMITS_DEFAULT_TASK_RUN_LIMIT": "6",
    "SERVER_LIMITS_DEFAULT_WORKER_LIMIT": "2",
    "SERVER_LIMITS_DEFAULT_WORKER_SLOT_LIMIT": "25",
    "SERVER_LIMITS_DEFAULT_CRON_LIMIT": "1",
    "SERVER_LIMITS_DEFAULT_SCHEDULE_LIMIT": "2",
    "SERVER_LIMITS_DEFAULT_INCOMING_WEBHOOK_LIMIT": "1",
}


@pytest.fixture
def server() -> Iterator[Server]:
    with server_directory() as directory, closing(one := Server(directory, env=SMALL)):
        yield one.start()


class Client:
    """Both sides of a server."""

    def __init__(self, server: Server) -> None:
        self.wire = Wire(server.grpc_address, server.token)
        self.rest = Rest(server.http_url, server.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()
        self.rest.close()

    def push(self, key: str = "a:b") -> events.Event:
        answer: events.Event = self.wire.unary(
            "/EventsService/Push", events.PushEventRequest(key=key, payload="{}"), events.Event
        )
        return answer

    def schedule(self, name: str, count: int) -> Any:
        at = Timestamp()
        at.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
        request = workflows.ScheduleWorkflowRequest(name=name, input="{}", schedules=[at] * count)
        return self.wire.unary("/WorkflowService/ScheduleWorkflow", request, workflows.WorkflowVersion)

    def usage(self) -> dict[str, int]:
        limits = self.rest.get(f"tenants/{self.rest.tenant}/resource-policy")["limits"]
        return {item["resource"]: item["value"] for item in limits}

    def webhook(self, name: str) -> httpx.Response:
        body = {
            "sourceName": "GENERIC",
            "name": name,
            "eventKeyExpression": "'a:b'",
            "authType": "API_KEY",
            "auth": {"headerName": "X-Key", "apiKey": "k"},
        }
        return self.rest.raw("POST", "T/webhooks", json=body)


def put(wire: Wire, name: str, *tasks: str, on: tuple[str, ...] = ()) -> None:
    made = [v1.CreateTaskOpts(readable_id=task, action=f"{name}:{task}") for task in tasks]
    wire.put(v1.CreateWorkflowVersionRequest(name=name, tasks=made, event_triggers=on))


def test_each_resource_has_its_limit_and_keeps_it_over_a_restart(server: Server) -> None:
    with Client(server) as client:
        wire = client.wire
        put(wire, "one", "only", on=("a:b",))
        put(wire, "two", "left", "right")

        # Two task runs by one run of two tasks, one by an event.
        wire.trigger("two")
        client.push()
        code, text = code_of(lambda: [wire.trigger("two") for _ in range(2)])
        assert code is EXHAUSTED
        assert "has used 5 of at most 6 of resource TASK_RUN in 24h, and 2 more would be too much" in text
        assert "SERVER_LIMITS_DEFAULT_TASK_RUN_LIMIT" in text
        wire.trigger("one")
        assert client.usage()["TASK_RUN"] == 6

        # An event that would start a run past the limit is not taken either.
        assert code_of(client.push)[0] is EXHAUSTED
        assert client.usage()["EVENT"] == 1
        for _ in range(3):
            client.push("nobody")
        code, text = code_of(lambda: client.push("nobody"))
        assert code is EXHAUSTED
        assert "has used 4 of at most 4 of resource EVENT in 24h" in text

        assert client.webhook("w").status_code == 200
        refused = client.webhook("v")
        assert refused.status_code == 400
        assert "INCOMING_WEBHOOK" in refused.text
        delivered = client.rest.raw("POST", "T/webhooks/w", json={}, headers={"X-Key": "k"})
        assert delivered.status_code == 429
        assert "resource EVENT" in delivered.json()["errors"][0]["description"]

        cron = {"input": {}, "additionalMetadata": {}, "cronName": "c", "cronExpression": "0 0 1 1 *"}
        path = f"tenants/{client.rest.tenant}/workflows/one/crons"
        assert client.rest.raw("POST", path, json=cron).status_code == 200
        refused = client.rest.raw("POST", path, json=cron | {"cronName": "d"})
        assert refused.status_code == 429
        assert "resource CRON" in refused.text
        assert code_of(lambda: client.schedule("one", 3))[0] is EXHAUSTED
        client.schedule("one", 2)
        code, text = code_of(lambda: client.schedule("one", 1))
        assert code is EXHAUSTED
        assert "has used 2 of at most 2 of resource SCHEDULE" in text
        before = client.usage()
        assert before == {
            "WORKER": 0,
            "WORKER_SLOT": 0,
            "EVENT": 4,
            "TASK_RUN": 6,
            "CRON": 1,
            "SCHEDULE": 2,
            "INCOMING_WEBHOOK": 1,
        }
    server.kill9()
    server.restart()
    with Client(server) as client:
        wait_until(lambda: client.usage() == before, what="the use of before the restart to be counted")
        assert code_of(lambda: client.wire.trigger("one"))[0] is EXHAUSTED
        assert code_of(lambda: client.push("nobody"))[0] is EXHAUSTED


def test_workers_are_limited_while_they_are_there(server: Server) -> None:
    with Client(server) as client:
        first = BareWorker(client.wire, "one:only")
        second = BareWorker(client.wire, "one:only")
        try:
            code, text = code_of(lambda: client.wire.register("one:only"))
            assert code is EXHAUSTED
            assert "resource WORKER," in text
            assert "SERVER_LIMITS_DEFAULT_WORKER_LIMIT" in text
            client.wire.unary(
                "/Dispatcher/Unsubscribe",
                dispatcher.WorkerUnsubscribeRequest(worker_id=first.id),
                dispatcher.WorkerUnsubscribeResponse,
            )
            wait_until(lambda: client.usage()["WORKER"] == 1, what="the worker to be gone")
            code, text = code_of(lambda: client.wire.register("one:only", slots=16))
            assert code is EXHAUSTED
            assert "10 of at most 25 of resource WORKER_SLOT, and 16 more" in text
            assert client.wire.register("one:only", slots=15)
            assert client.usage()["WORKER_SLOT"] == 25
        finally:
            first.close()
            second.close()
