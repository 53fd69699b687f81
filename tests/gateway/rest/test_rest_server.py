"""Every REST route on a real server with its own Postgres: what was written by gRPC and REST is read back, filtered, and kept apart."""

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc
import httpx
import pytest

from broadaxe.wire import stream_pb2 as s
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe_gateway.admin import create_token
from broadaxe_gateway.config import load_config
from broadaxe_gateway.database import open_store
from broadaxe_storage.embedded import EmbeddedPostgres
from tests.factories import make_tenant
from tests.gateway.rest import official
from tests.gateway.running import environment_of, running

RUN = "/api/v1/stable/workflow-runs"
TASK = "/api/v1/stable/tasks"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data directory whose embedded Postgres stays up for the module."""
    path = tmp_path_factory.mktemp("data")
    yield path
    EmbeddedPostgres.start(path).stop()


class Server:
    """A client of both sides of a server, as one tenant."""

    def __init__(self, server, token, channel, client, tenant_id) -> None:
        self.server = server
        self.token = token
        self.channel = channel
        self.client = client
        self.tenant = f"/api/v1/stable/tenants/{tenant_id}"
        self.old_tenant = f"/api/v1/tenants/{tenant_id}"

    @property
    def metadata(self):
        return (("authorization", f"bearer {self.token}"),)

    async def put(self, name, *tasks):
        call = self.channel.unary_unary(
            "/v1.AdminService/PutWorkflow",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=v1.CreateWorkflowVersionResponse.FromString,
        )
        opts = [
            v1.CreateTaskOpts(readable_id=task, action=f"{name}:{task}", parents=list(parents))
            for task, parents in tasks
        ]
        request = v1.CreateWorkflowVersionRequest(name=name, tasks=opts)
        return (await call(request, metadata=self.metadata, timeout=10)).workflow_id

    async def get(self, path, **params):
        answer = await self.client.get(path, params=params or None)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path, body):
        answer = await self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def trigger(self, name, **fields):
        body = {"workflowName": name, "input": {"n": 1}} | fields
        return (await self.post(f"{self.tenant}/workflow-runs/trigger", body))["run"]["metadata"]["id"]

    async def listed(self, **params):
        since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        given = {"since": since, "only_tasks": False} | params
        body = await self.get(f"{self.tenant}/workflow-runs", **given)
        official.V1TaskSummaryList.from_dict(body)
        return [row["metadata"]["id"] for row in body["rows"]]

    @asynccontextmanager
    async def worker(self, *actions, slots=10):
        call = self.channel.stream_stream(
            "/broadaxe.v1.Engine/WorkerStream",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=s.WorkerDown.FromString,
        )
        stream = call(metadata=self.metadata)
        hello = s.Hello(worker_name="rest", actions=actions, slot_config={"default": slots})
        hello.labels["zone"].str_value = "eu"
        await stream.write(s.WorkerUp(hello=hello, heartbeat=True))
        worker = Worker(stream, (await stream.read()).welcome.worker_id)
        try:
            yield worker
        finally:
            stream.cancel()


class Worker:
    def __init__(self, stream, worker_id) -> None:
        self.stream = stream
        self.id = worker_id
        self.waiting = []
        self.reports = 0

    async def next(self):
        async with asyncio.timeout(10):
            while not self.waiting:
                self.waiting += (await self.stream.read()).assignments
        return self.waiting.pop(0)

    async def report(self, start, kind, payload=b"{}"):
        """Returns once the report is committed."""
        self.reports += 1
        report = s.TaskReport(
            task_run_id=start.task_run_id, attempt=start.attempt, kind=kind, payload=payload
        )
        await self.stream.write(s.WorkerUp(reports=[report], report_batch=self.reports))
        async with asyncio.timeout(10):
            while True:
                down = await self.stream.read()
                self.waiting += down.assignments
                if down.committed_report_batch >= self.reports:
                    return

    async def complete(self, start, output):
        await self.report(start, s.REPORT_KIND_COMPLETED, json.dumps(output).encode())

    async def fail(self, start, text):
        await self.report(start, s.REPORT_KIND_FAILED, text.encode())


async def until(condition):
    """The first true value of a condition, for what nobody is told."""
    async with asyncio.timeout(10):
        while True:
            found = await condition()
            if found:
                return found
            await asyncio.sleep(0.05)  # between two looks


@asynccontextmanager
async def served(data_dir, **settings):
    environment = environment_of(data_dir, **settings)
    async with running(environment) as server:
        token = await create_token(load_config(environment), name="rest", lifetime_seconds=600)
        async with client_of(server, token, server.default_tenant_id) as client:
            yield client


@asynccontextmanager
async def client_of(server, token, tenant_id):
    async with (
        grpc.aio.insecure_channel(server.grpc_address) as channel,
        httpx.AsyncClient(
            base_url=f"http://{server.http_address}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        ) as client,
    ):
        yield Server(server, token, channel, client, tenant_id)


@asynccontextmanager
async def other_tenant(data_dir, server):
    """A client of a tenant made beside the running server."""
    from contextlib import AsyncExitStack

    tenant = make_tenant()
    config = load_config(environment_of(data_dir))
    async with AsyncExitStack() as stack:
        store = await open_store(config, stack, keeps_running=True)
        await store.insert_tenant(tenant)
    token = await create_token(config, name="other", lifetime_seconds=600, tenant_id=tenant.id)
    async with client_of(server, token, tenant.id) as client:
        yield client


async def test_runs_are_found_by_every_filter(data_dir):
    async with served(data_dir) as rest:
        one = await rest.put("filters-one", ("a", ()))
        two = await rest.put("filters-two", ("a", ()), ("b", ("a",)))
        first = await rest.trigger("filters-one", additionalMetadata={"k": "1", "l": "x"})
        second = await rest.trigger("filters-two", additionalMetadata={"k": "2", "l": "x"})
        third = await rest.trigger("filters-one")
        mine = {"workflow_ids": [one, two]}
        assert await rest.listed(**mine) == [third, second, first]
        assert await rest.listed(workflow_ids=[one]) == [third, first]
        assert await rest.listed(additional_metadata=["k:1", "k:2"], **mine) == [second, first]
        both = {"additional_metadata": ["k:1", "l:x"]}
        assert await rest.listed(**both, **mine) == [second, first]
        assert await rest.listed(**both, additional_metadata_operator="AND", **mine) == [first]
        assert await rest.listed(limit=1, offset=1, **mine) == [second]
        async with rest.worker("filters-one:a", "filters-two:a", slots=1) as worker:
            start = await worker.next()
            assert start.task_run_id == first
            await worker.complete(start, {"v": 1})
            start = await worker.next()
            await worker.fail(start, "ValueError: no")
            assert await rest.listed(statuses="COMPLETED", **mine) == [first]
            assert await rest.listed(statuses="FAILED", **mine) == [second]
            await worker.next()

            async def given():
                # Assignments are recorded a little later than made.
                tasks = await rest.listed(only_tasks=True, worker_id=worker.id, **mine)
                return tasks if len(tasks) == 3 else None

            assert await until(given) == [third, start.task_run_id, first]
            assert await rest.listed(statuses=["RUNNING", "QUEUED"], running_filter="ON_WORKER", **mine) == [
                third
            ]
            assert await rest.listed(statuses="RUNNING", running_filter="EVICTED", **mine) == []
        details = await rest.get(f"{RUN}/{second}")
        created = details["run"]["createdAt"]
        assert await rest.listed(since=created, **mine) == [third, second]
        assert await rest.listed(until=created, **mine) == [second, first]
        ids = f"{rest.tenant}/workflow-runs/external-ids"
        assert await rest.get(ids, since=created, **mine) == [third]
        assert set(await rest.get(ids, since="2026-01-01T00:00:00Z", additional_metadata="k:1", **mine)) == {
            first
        }
        names = await rest.get(f"{rest.tenant}/workflow-runs/display-names", external_ids=[second, first])
        official.V1WorkflowRunDisplayNameList.from_dict(names)
        assert [row["displayName"].rpartition("-")[0] for row in names["rows"]] == ["filters-two", "a"]


async def test_run_of_several_tasks_is_shown_in_full(data_dir):
    async with served(data_dir) as rest:
        workflow = await rest.put("full", ("top", ()), ("left", ("top",)), ("right", ("top",)))
        run_id = await rest.trigger("full", additionalMetadata={"who": "me"})
        before = await rest.get(f"{RUN}/{run_id}")
        official.V1WorkflowRunDetails.from_dict(before)
        assert before["run"]["status"] == await rest.get(f"{RUN}/{run_id}/status") == "QUEUED"
        async with rest.worker("full:top", "full:left", "full:right") as worker:
            await worker.complete(await worker.next(), {"v": 1})
            left, right = await worker.next(), await worker.next()
            assert json.loads(left.parents) == {"top": {"v": 1}}
            await worker.complete(left, {"w": 2})
            assert await rest.get(f"{RUN}/{run_id}/status") == "RUNNING"
            await worker.fail(right, "ValueError: right")
        details = await rest.get(f"{RUN}/{run_id}")
        official.V1WorkflowRunDetails.from_dict(details)
        assert (details["run"]["status"], details["run"]["errorMessage"]) == ("FAILED", "ValueError: right")
        assert details["run"]["output"] == {"w": 2}
        assert [task["status"] for task in details["tasks"]] == ["COMPLETED", "COMPLETED", "FAILED"]
        assert [item["taskName"] for item in details["shape"]] == ["top", "left", "right"]
        assert len(details["shape"][0]["childrenStepIds"]) == 2
        events = await rest.get(f"{RUN}/{run_id}/task-events")
        official.V1TaskEventList.from_dict(events)
        assert {(row["taskId"], row["eventType"]) for row in events["rows"]} >= {
            (left.task_run_id, "FINISHED"),
            (right.task_run_id, "FAILED"),
        }
        assert events["rows"] == details["taskEvents"]
        failed = next(row for row in events["rows"] if row["eventType"] == "FAILED")
        assert failed["errorMessage"] == "ValueError: right"
        task = await rest.get(f"{TASK}/{left.task_run_id}")
        official.V1TaskSummary.from_dict(task)
        assert (task["input"], task["output"]) == ({"n": 1}, {"w": 2})
        assert task["additionalMetadata"]["who"] == "me"
        own = await rest.get(f"{TASK}/{left.task_run_id}/task-events")
        assert {row["taskId"] for row in own["rows"]} == {left.task_run_id}
        (row,) = (
            await rest.get(
                f"{rest.tenant}/workflow-runs",
                since="2026-01-01T00:00:00Z",
                only_tasks=False,
                include_payloads=True,
                workflow_ids=workflow,
            )
        )["rows"]
        assert [child["output"] for child in row["children"]] == [{"v": 1}, {"w": 2}, {}]
        assert row["children"][0]["input"]["input"] == {"n": 1}
        # A task shows what its run has.
        tasks = (
            await rest.get(
                f"{rest.tenant}/workflow-runs",
                since="2026-01-01T00:00:00Z",
                only_tasks=True,
                include_payloads=True,
                additional_metadata="who:me",
                workflow_ids=workflow,
            )
        )["rows"]
        assert len(tasks) == 3
        assert {task["input"]["input"]["n"] for task in tasks} == {1}
        assert (await rest.client.get(f"{RUN}/{left.task_run_id}")).status_code == 404
        assert (await rest.client.get(f"{TASK}/{run_id}")).status_code == 404


async def test_children_are_listed_and_timed(data_dir):
    async with served(data_dir) as rest:
        await rest.put("family", ("a", ()))
        parent = await rest.trigger("family")
        stream = rest.channel.stream_stream(
            "/broadaxe.v1.Engine/ClientStream",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=s.ClientDown.FromString,
        )(metadata=rest.metadata)

        async def spawn(under, *indexes):
            runs = [
                s.NewRun(workflow_name="family", parent_task_run_id=under, child_index=index)
                for index in indexes
            ]
            await stream.write(s.ClientUp(triggers=[s.TriggerRuns(request=1, runs=runs)]))
            (reply,) = (await stream.read()).replies
            return list(reply.run_ids)

        children = await spawn(parent, 0, 1)
        (grandchild,) = await spawn(children[0], 0)
        stream.cancel()
        assert set(await rest.listed(parent_task_external_id=parent)) == set(children)
        assert (await rest.get(f"{TASK}/{parent}"))["numSpawnedChildren"] == 2
        body = await rest.get(f"{RUN}/{parent}/task-timings", depth=5)
        official.V1TaskTimingList.from_dict(body)
        assert [(row["taskExternalId"], row["depth"]) for row in body["rows"]] == [
            (parent, 0),
            (children[0], 1),
            (grandchild, 2),
            (children[1], 1),
        ]
        assert len((await rest.get(f"{RUN}/{parent}/task-timings"))["rows"]) == 1


async def test_log_lines_are_found_by_every_filter(data_dir):
    async with served(data_dir) as rest:
        workflow = await rest.put("logs", ("a", ()))
        one, two = await rest.trigger("logs"), await rest.trigger("logs")
        stream = rest.channel.stream_stream(
            "/broadaxe.v1.Engine/ClientStream",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=s.ClientDown.FromString,
        )(metadata=rest.metadata)
        at = 1_767_323_045_000_000
        lines = [
            s.LogLine(task_run_id=one, message="First light", level="INFO", created_at_us=at),
            s.LogLine(task_run_id=one, message="boom", level="ERROR", created_at_us=at + 1_000_000),
            s.LogLine(task_run_id=two, message="other light", level="WARN", created_at_us=at + 2_000_000),
        ]
        await stream.write(s.ClientUp(logs=lines))

        async def messages(path, **params):
            body = await rest.get(path, **params)
            official.V1LogLineList.from_dict(body)
            return [row["message"] for row in body["rows"]]

        everything = f"{rest.tenant}/logs"

        async def are_kept():
            return len(await messages(everything, workflow_ids=workflow)) == 3

        await until(are_kept)
        stream.cancel()
        assert await messages(f"{TASK}/{one}/logs") == ["First light", "boom"]
        assert await messages(f"{TASK}/{one}/logs", order_by_direction="DESC", limit=1) == ["boom"]
        assert await messages(f"{TASK}/{one}/logs", attempt=1) == ["First light", "boom"]
        assert await messages(f"{TASK}/{one}/logs", attempt=2) == []
        assert await messages(everything, search="LIGHT", taskExternalIds=[one, two]) == [
            "First light",
            "other light",
        ]
        assert await messages(everything, levels=["WARN", "ERROR"], workflow_ids=workflow) == [
            "boom",
            "other light",
        ]
        since = "2026-01-02T03:04:05Z"
        assert await messages(everything, since=since, workflow_ids=workflow) == ["boom", "other light"]
        assert await messages(everything, until="2026-01-02T03:04:06Z", workflow_ids=workflow) == [
            "First light"
        ]
        step = (await rest.get(f"{RUN}/{one}"))["shape"][0]["stepId"]
        assert len(await messages(everything, step_ids=step)) == 3
        assert await messages(everything, step_ids=one) == []


async def test_cancel_and_replay_go_through(data_dir):
    async with served(data_dir) as rest:
        workflow = await rest.put("again", ("a", ()))
        runs = [await rest.trigger("again") for _ in range(3)]
        cancel, replay = f"{rest.tenant}/tasks/cancel", f"{rest.tenant}/tasks/replay"
        assert await rest.post(cancel, {"externalIds": runs[:1]}) == {"ids": runs[:1]}
        assert await rest.get(f"{RUN}/{runs[0]}/status") == "CANCELLED"
        wanted = {"since": "2026-01-01T00:00:00Z", "workflowIds": [workflow], "statuses": ["QUEUED"]}
        assert set((await rest.post(cancel, {"filter": wanted}))["ids"]) == set(runs[1:])
        assert await rest.listed(workflow_ids=workflow, statuses="CANCELLED") == runs[::-1]
        assert await rest.post(replay, {"externalIds": [runs[0]]}) == {"ids": [runs[0]]}
        body = await rest.get(f"{RUN}/{runs[0]}")
        assert (body["run"]["status"], body["tasks"][0]["retryCount"]) == ("QUEUED", 1)
        # What has not ended is passed over.
        assert await rest.post(replay, {"externalIds": [runs[0]]}) == {"ids": []}


async def test_switched_off_replay_is_refused_by_both_sides(data_dir):
    async with served(data_dir, SERVER_REPLAY_ENABLED="false") as rest:
        await rest.put("off", ("a", ()))
        run_id = await rest.trigger("off")
        answer = await rest.client.post(f"{rest.tenant}/tasks/replay", json={"externalIds": [run_id]})
        assert answer.status_code == 400
        call = rest.channel.unary_unary(
            "/v1.AdminService/ReplayTasks",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=v1.ReplayTasksResponse.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call(v1.ReplayTasksRequest(external_ids=[run_id]), metadata=rest.metadata, timeout=10)
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_workflows_and_workers_are_read(data_dir):
    async with served(data_dir) as rest:
        workflow = await rest.put("directory", ("a", ()))
        await rest.put("directory", ("a", ()), ("b", ("a",)))
        body = await rest.get(f"{rest.old_tenant}/workflows", name="DIRECT")
        official.WorkflowList.from_dict(body)
        assert [row["metadata"]["id"] for row in body["rows"]] == [workflow]
        (version,) = (await rest.get(f"/api/v1/workflows/{workflow}"))["versions"]
        assert version["order"] == 2
        latest = await rest.get(f"/api/v1/workflows/{workflow}/versions")
        official.WorkflowVersion.from_dict(latest)
        assert latest["metadata"]["id"] == version["metadata"]["id"]
        run_id = await rest.trigger("directory")
        async with rest.worker("directory:a") as worker:
            await worker.next()

            async def listed():
                body = await rest.get(f"{rest.old_tenant}/worker", labels="zone:eu", statuses="ACTIVE")
                official.WorkerList.from_dict(body)
                return [row for row in body["rows"] if row["metadata"]["id"] == worker.id]

            (row,) = await until(listed)
            assert row["slotConfig"]["default"] == {"limit": 10, "available": 9}
            one = await rest.get(f"/api/v1/workers/{worker.id}")
            official.Worker.from_dict(one)
            task = (await rest.get(f"{RUN}/{run_id}"))["tasks"][0]["taskExternalId"]
            assert [slot["stepRunId"] for slot in one["slots"]] == [task]
            assert "directory" in [workflow["name"] for workflow in one["registeredWorkflows"]]
            paused = await rest.client.patch(f"/api/v1/workers/{worker.id}", json={"isPaused": True})
            assert paused.json()["status"] == "PAUSED"


async def test_tenants_see_nothing_of_each_other(data_dir):
    async with served(data_dir) as rest, other_tenant(data_dir, rest.server) as other:
        workflow = await rest.put("secret", ("a", ()))
        run_id = await rest.trigger("secret")
        async with rest.worker("secret:a") as worker:
            for path in (
                f"{RUN}/{run_id}",
                f"{RUN}/{run_id}/status",
                f"{RUN}/{run_id}/task-events",
                f"{RUN}/{run_id}/task-timings",
                f"{TASK}/{run_id}",
                f"{TASK}/{run_id}/task-events",
                f"{TASK}/{run_id}/logs",
                f"/api/v1/workflows/{workflow}",
                f"/api/v1/workflows/{workflow}/versions",
                f"/api/v1/workers/{worker.id}",
            ):
                assert (await rest.client.get(path)).status_code == 200
                assert (await other.client.get(path)).status_code == 404, path
        for path in (
            f"{rest.tenant}/workflow-runs?since=2026-01-01T00:00:00Z&only_tasks=false",
            f"{rest.tenant}/workflow-runs/external-ids?since=2026-01-01T00:00:00Z",
            f"{rest.tenant}/workflow-runs/display-names?external_ids={run_id}",
            f"{rest.tenant}/logs",
            f"{rest.old_tenant}/workflows",
            f"{rest.old_tenant}/worker",
        ):
            assert (await rest.client.get(path)).status_code == 200
            assert (await other.client.get(path)).status_code == 403, path
            own = await other.get(
                path.replace(rest.server.default_tenant_id, other.tenant.rpartition("/")[2])
            )
            assert not (own if isinstance(own, list) else own["rows"]), path
        for path in ("cancel", "replay"):
            body = {"externalIds": [run_id]}
            assert (await other.client.post(f"{rest.tenant}/tasks/{path}", json=body)).status_code == 403
            assert (await other.client.post(f"{other.tenant}/tasks/{path}", json=body)).status_code == 200
        assert await rest.get(f"{RUN}/{run_id}/status") in {"QUEUED", "RUNNING"}
