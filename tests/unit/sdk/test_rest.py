"""What goes over REST: the calls as servers expect them, their answers as objects, and which are repeated."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import broadaxe
from broadaxe import (
    Broadaxe,
    BroadaxeError,
    ClientConfig,
    ConfigurationError,
    DefinitionError,
    NotAuthenticatedError,
    NotFoundError,
    RequestRefusedError,
    ServerUnavailableError,
    TenacityConfig,
    UpdateWorkerRequest,
    V1LogLineLevel,
    V1TaskEventType,
    V1TaskStatus,
    WorkerStatus,
)
from broadaxe import _rest as rest_module
from tests.unit.sdk.clients import TOKEN, make_token
from tests.unit.sdk.fake_rest import META, TENANT, Call, FakeRest, details, listed, summary

SINCE = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=timezone(timedelta(hours=1)))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(rest_module, "FIRST_WAIT_S", 0.001)


@pytest.fixture
def server() -> Iterator[FakeRest]:
    with FakeRest(lambda call: (404, {})) as server:
        yield server


def client_of(server: FakeRest, namespace: str = "") -> Broadaxe:
    return Broadaxe(token=TOKEN, namespace=namespace, config=ClientConfig(server_url=server.url + "/"))


def answering(server: FakeRest, value: Any, status: int = 200) -> Broadaxe:
    server.answer = lambda call: (status, value)
    return client_of(server)


# ---- runs


def test_a_list_of_runs_asks_with_every_filter_and_reads_the_rows(server):
    client = answering(server, listed([summary(children=[summary(type="TASK", status="FAILED")])]))
    page = client.runs.list(
        since=SINCE,
        only_tasks=True,
        offset=10,
        limit=20,
        statuses=[V1TaskStatus.RUNNING, V1TaskStatus.FAILED],
        until=SINCE + timedelta(days=1),
        additional_metadata={"team": "a", "url": "http://x"},
        workflow_ids=["w1", "w2"],
        worker_id="worker",
        parent_task_external_id="parent",
        triggering_event_external_id="event",
        include_payloads=False,
    )
    (call,) = server.calls
    assert (call.method, call.path) == ("GET", f"/api/v1/stable/tenants/{TENANT}/workflow-runs")
    assert call.query == {
        "since": ["2026-01-02T02:04:05.678901Z"],
        "until": ["2026-01-03T02:04:05.678901Z"],
        "only_tasks": ["true"],
        "offset": ["10"],
        "limit": ["20"],
        "statuses": ["RUNNING", "FAILED"],
        "additional_metadata": ["team:a", "url:http://x"],
        "workflow_ids": ["w1", "w2"],
        "worker_id": ["worker"],
        "parent_task_external_id": ["parent"],
        "triggering_event_external_id": ["event"],
        "include_payloads": ["false"],
    }
    assert call.headers["Authorization"] == f"Bearer {TOKEN}"
    (row,) = page.rows
    assert (row.metadata.id, row.status, row.output) == (META["id"], V1TaskStatus.COMPLETED, {"twice": 2})
    assert row.metadata.created_at == datetime(2026, 1, 2, 3, 4, 5, 123_456, tzinfo=UTC)
    assert row.children[0].status is V1TaskStatus.FAILED
    assert page.pagination.next_page == 2


async def test_a_list_looks_a_day_back_unless_told(server):
    client = answering(server, listed([]))
    before = datetime.now(UTC) - timedelta(days=1)
    assert (await client.runs.aio_list()).rows == []
    (call,) = server.calls
    since = datetime.strptime(call.query["since"][0], "%Y-%m-%dT%H:%M:%S.%f%z")
    assert timedelta(0) <= since - before < timedelta(minutes=1)
    assert set(call.query) == {"since", "only_tasks", "include_payloads"}


@pytest.mark.parametrize(("limit", "found"), [(None, 1_203), (700, 700)])
def test_a_list_with_pagination_takes_every_page(server, limit, found):
    def answer(call: Call) -> tuple[int, Any]:
        start, size = int(call.query["offset"][0]), int(call.query["limit"][0])
        return 200, listed([summary(f"run-{n}") for n in range(start, min(start + size, 1_203))])

    server.answer = answer
    rows = client_of(server).runs.list_with_pagination(since=SINCE, limit=limit)
    assert [row.metadata.id for row in rows] == [f"run-{n}" for n in range(found)]
    assert len({call.query["until"][0] for call in server.calls}) == 1


async def test_run_details_and_task_runs_are_read_by_id(server):
    client = answering(server, details())
    read = client.runs.get("run-1")
    assert server.calls[0].path == "/api/v1/stable/workflow-runs/run-1"
    assert (read.run.status, read.tasks[0].task_external_id) == (V1TaskStatus.COMPLETED, META["id"])
    assert [event.event_type for event in read.task_events] == [V1TaskEventType.FINISHED, "SOME_DAY"]
    assert (read.shape[0].task_name, read.shape[0].children_step_ids) == ("job", ["t"])
    assert (await client.runs.aio_get("run-1")) == read
    client = answering(server, summary(type="TASK", retryCount=1))
    assert (await client.runs.aio_get_task_run("task-1")).retry_count == 1
    assert server.calls[-1].path == "/api/v1/stable/tasks/task-1"


def test_a_workflow_lists_its_own_runs_by_the_id_that_the_server_has(server):
    def answer(call: Call) -> tuple[int, Any]:
        if call.path.endswith("/workflows"):
            names = ["dev_flow-2", "dev_flow"] if call.query.get("offset") == ["0"] else []
            return 200, {"rows": [workflow(name) for name in names]}
        return 200, listed([summary()])

    server.answer = answer
    flow = client_of(server, "dev").stubs.workflow(name="flow")
    assert [row.metadata.id for row in flow.list_runs(since=SINCE, statuses=[V1TaskStatus.FAILED])] == [
        META["id"]
    ]
    assert flow.id == "id-of-dev_flow"
    assert server.calls[-1].query["workflow_ids"] == ["id-of-dev_flow"]
    assert server.calls[0].query["name"] == ["dev_flow"]
    with pytest.raises(ValueError, match="no workflow 'dev_other'"):
        _ = client_of(server, "dev").stubs.workflow(name="other").id


# ---- logs, workers, workflows


def test_logs_of_a_task_are_read(server):
    line = {"createdAt": META["createdAt"], "message": "hello", "metadata": {}, "level": "WARN", "attempt": 2}
    read = answering(server, {"rows": [line]}).logs.list("task-1", limit=5, since=SINCE)
    (call,) = server.calls
    assert call.path == "/api/v1/stable/tasks/task-1/logs"
    assert call.query == {"limit": ["5"], "since": ["2026-01-02T02:04:05.678901Z"]}
    assert (read.rows[0].message, read.rows[0].level) == ("hello", V1LogLineLevel.WARN)


async def test_workers_are_read_and_paused(server):
    worker = {
        "metadata": META,
        "name": "w",
        "type": "SELFHOSTED",
        "status": "PAUSED",
        "slotConfig": {"default": {"available": 3, "limit": 5}},
        "labels": [{"metadata": META, "key": "gpu", "value": "a100"}],
        "runtimeInfo": {"sdkVersion": "0.1.0", "language": "PYTHON"},
    }
    client = answering(server, worker)
    read = client.workers.get("id")
    assert (read.status, read.slot_config["default"].available) == (WorkerStatus.PAUSED, 3)
    assert read.runtime_info.sdk_version == "0.1.0"
    client.workers.update("id", UpdateWorkerRequest(is_paused=True))
    await client.workers.aio_unpause("id")
    assert [(call.method, call.body) for call in server.calls] == [
        ("GET", None),
        ("PATCH", {"isPaused": True}),
        ("PATCH", {"isPaused": False}),
    ]
    assert {call.path for call in server.calls} == {"/api/v1/workers/id"}
    assert (await answering(server, {"rows": [worker]}).workers.aio_list()).rows[0].name == "w"
    assert server.calls[-1].path == f"/api/v1/tenants/{TENANT}/worker"


async def test_the_tenant_of_the_token_is_read(server):
    meta = {"id": TENANT, "createdAt": "2026-01-02T03:04:05Z", "updatedAt": "2026-01-02T03:04:05Z"}
    answer = {
        "metadata": meta,
        "name": "Acme",
        "slug": "acme",
        "version": "V1",
        "environment": "local",
        "more": 1,
    }
    broadaxe = answering(server, answer)
    for tenant in (broadaxe.tenant.get(), await broadaxe.tenant.aio_get()):
        assert (tenant.name, tenant.slug, tenant.environment) == ("Acme", "acme", "local")
        assert tenant.metadata.id == TENANT
    assert [call.path for call in server.calls] == [f"/api/v1/tenants/{TENANT}"] * 2


async def test_workflows_are_paused_and_unpaused(server):
    client = answering(server, {**workflow("flow"), "isPaused": True})
    read = client.workflows.pause("id", timedelta(minutes=90), "DROP")
    assert read.is_paused is True
    await client.workflows.aio_pause(
        "id", queue_ttl=timedelta(hours=2), paused_workflow_scheduled_run_queue_behavior="DROP"
    )
    client.workflows.unpause("id")
    await client.workflows.aio_unpause("id")
    assert {(call.method, call.path) for call in server.calls} == {("PATCH", "/api/v1/workflows/id")}
    first, second, *rest = [call.body["pause"] for call in server.calls]
    assert first == {
        "action": "pause",
        "pausedWorkflowQueueTTL": "90m",
        "pausedWorkflowCronRunQueueBehavior": "DROP",
        "pausedWorkflowScheduledRunQueueBehavior": "QUEUE",
    }
    assert (second["pausedWorkflowQueueTTL"], second["pausedWorkflowScheduledRunQueueBehavior"]) == (
        "2h",
        "DROP",
    )
    assert rest == [{"action": "unpause"}] * 2
    with pytest.raises(DefinitionError, match="expected 1 ms or more"):
        client.workflows.pause("id", timedelta(0))


async def test_task_stats_queue_metrics_and_prometheus_metrics_are_read(server):
    stat = {
        "queued": {
            "total": 3,
            "queues": {"flow:job": 2},
            "concurrency": [{"expression": "input.u", "type": "GROUP_ROUND_ROBIN", "keys": {"a": 1}}],
            "oldest": META["createdAt"],
        },
        "running": {"total": 1},
    }
    client = answering(server, {"job": stat})
    read = client.metrics.get_task_stats()
    assert read == await client.metrics.aio_get_task_stats()
    queued = read["job"].queued
    assert (queued.total, queued.queues, queued.concurrency[0].keys) == (3, {"flow:job": 2}, {"a": 1})
    assert queued.oldest == read["job"].queued.oldest
    assert read["job"].running.total == 1
    client = answering(server, {"queues": {"flow:job": 2, "flow/GROUP_ROUND_ROBIN": {"a": 1}}})
    assert client.metrics.get_queue_metrics()["flow/GROUP_ROUND_ROBIN"] == {"a": 1}
    assert await client.metrics.aio_get_queue_metrics() == client.metrics.get_queue_metrics()
    client = answering(server, b"# TYPE hatchet_x counter\n")
    assert client.metrics.scrape_tenant_prometheus_metrics() == "# TYPE hatchet_x counter\n"
    assert (await client.metrics.aio_scrape_tenant_prometheus_metrics()).startswith("#")
    paths = list(dict.fromkeys(call.path.removeprefix(f"/api/v1/tenants/{TENANT}/") for call in server.calls))
    assert paths == ["task-stats", "step-run-queue-metrics", "prometheus-metrics"]


async def test_task_metrics_are_read_by_status(server):
    rows = [
        {"status": name, "count": number} for number, name in enumerate(("CANCELLED", "COMPLETED", "FAILED"))
    ]
    rows += [{"status": "QUEUED", "count": 7}, {"status": "RUNNING", "count": 8, "runningDetailCount": {}}]
    client = answering(server, rows)
    read = client.metrics.get_task_metrics(SINCE, workflow_ids=["w"], triggering_event_external_id="e")
    assert (read.cancelled, read.completed, read.failed, read.queued, read.running) == (0, 1, 2, 7, 8)
    (call,) = server.calls
    assert call.path == f"/api/v1/stable/tenants/{TENANT}/task-metrics"
    assert call.query == {
        "since": ["2026-01-02T02:04:05.678901Z"],
        "workflow_ids": ["w"],
        "triggering_event_external_id": ["e"],
    }
    assert await client.metrics.aio_get_task_metrics() == read


async def test_workflows_are_deleted_by_id_or_by_themselves(server):
    def answer(call: Call) -> tuple[int, Any]:
        if call.method == "DELETE":
            return 204, b""
        return 200, {"rows": [workflow("flow")] if call.query["offset"] == ["0"] else []}

    server.answer = answer
    client = client_of(server)
    client.workflows.delete("id")
    await client.workflows.aio_delete("id")
    flow = client.stubs.workflow(name="flow")
    flow.delete()
    # Registered again it has another id, so it is asked for again.
    await flow.aio_delete()
    assert [call.path for call in server.calls if call.method == "DELETE"] == [
        *["/api/v1/workflows/id"] * 2,
        *["/api/v1/workflows/id-of-flow"] * 2,
    ]
    assert [call.method for call in server.calls].count("GET") == 2


async def test_a_workflow_pauses_itself(server):
    def answer(call: Call) -> tuple[int, Any]:
        return 200, workflow("flow") if call.method == "PATCH" else {"rows": [workflow("flow")]}

    server.answer = answer
    flow = client_of(server).stubs.workflow(name="flow")
    flow.pause(timedelta(hours=1), paused_workflow_cron_run_queue_behavior="DROP")
    await flow.aio_unpause()
    pause, unpause = (call for call in server.calls if call.method == "PATCH")
    assert pause.path == unpause.path == "/api/v1/workflows/id-of-flow"
    assert (pause.body["pause"]["pausedWorkflowQueueTTL"], unpause.body["pause"]["action"]) == (
        "1h",
        "unpause",
    )


async def test_a_durable_task_is_branched_off(server):
    client = answering(server, {"taskExternalId": "t", "nodeId": 2, "branchId": 3})
    assert client.runs.reset_durable_task("t", 2, 1).branch_id == 3
    (call,) = server.calls
    assert (call.method, call.body) == ("POST", {"taskExternalId": "t", "nodeId": 2, "branchId": 1})
    client = answering(server, {"errors": [{"description": "not supported yet"}]}, 501)
    with pytest.raises(RequestRefusedError, match="not supported yet"):
        await client.runs.aio_reset_durable_task("t", 2, 1)
    assert len(server.calls) == 2


def workflow(name: str) -> dict[str, Any]:
    return {"metadata": {**META, "id": f"id-of-{name}"}, "name": name, "tenantId": TENANT, "isPaused": False}


async def test_workflows_and_their_versions_are_read(server):
    client = answering(server, {"rows": [workflow("flow")], "pagination": {"num_pages": 1}})
    assert (await client.workflows.aio_list("flow", limit=3)).rows[0].name == "flow"
    assert server.calls[-1].query == {"name": ["flow"], "limit": ["3"]}
    client = answering(server, workflow("flow"))
    assert client.workflows.get("id").is_paused is False
    version = {
        "metadata": META,
        "version": "",
        "order": 2,
        "workflowId": "id",
        "triggers": {"crons": [{"parent_id": "p", "cron": "* * * * *"}]},
        "v1Concurrency": [
            {"maxRuns": 1, "limitStrategy": "CANCEL_NEWEST", "expression": "'k'", "scope": "TASK"}
        ],
    }
    read = answering(server, version).workflows.get_version("id", "v")
    assert (read.order, read.triggers.crons[0].cron) == (2, "* * * * *")
    assert read.v1_concurrency[0].limit_strategy == "CANCEL_NEWEST"
    assert (server.calls[-1].path, server.calls[-1].query) == (
        "/api/v1/workflows/id/versions",
        {"version": ["v"]},
    )


# ---- failures


@pytest.mark.parametrize(
    ("status", "error", "attempts"),
    [
        (400, RequestRefusedError, 1),
        (401, NotAuthenticatedError, 1),
        (403, NotAuthenticatedError, 1),
        (404, NotFoundError, 5),
        (429, RequestRefusedError, 1),
        (500, RequestRefusedError, 5),
        (503, ServerUnavailableError, 5),
    ],
)
def test_reads_are_repeated_where_that_may_help(server, status, error, attempts):
    client = answering(server, {"errors": [{"description": "because"}]}, status)
    with pytest.raises(error, match="because") as caught:
        client.runs.get("run-1")
    assert len(server.calls) == attempts
    assert "GET /api/v1/stable/workflow-runs/run-1" in str(caught.value)


@pytest.mark.parametrize(("given", "attempts"), [({}, 5), ({"max_attempts": 0}, 1), ({"max_attempts": 2}, 2)])
def test_calls_are_made_as_often_as_the_client_is_set_to(server, given, attempts):
    server.answer = lambda call: (500, {})
    config = ClientConfig(server_url=server.url, tenacity=TenacityConfig(**given))
    with pytest.raises(RequestRefusedError):
        Broadaxe(token=TOKEN, config=config).workers.list()
    assert len(server.calls) == attempts


def test_a_rate_limited_call_is_repeated_if_that_is_asked_for(server):
    server.answer = lambda call: (200, {"rows": []}) if len(server.calls) == 4 else (429, {})
    config = ClientConfig(server_url=server.url, tenacity=TenacityConfig(retry_429=True))
    assert Broadaxe(token=TOKEN, config=config).workers.list().rows == []


@pytest.mark.parametrize(
    ("given", "method", "attempts"),
    [
        ({}, "GET", 1),
        ({"retry_transport_errors": True}, "GET", 5),
        ({"retry_transport_errors": True}, "DELETE", 5),
        ({"retry_transport_errors": True}, "POST", 1),
        ({"retry_transport_errors": True, "retry_transport_methods": ["POST"]}, "POST", 5),
        ({"retry_transport_errors": True, "retry_transport_methods": ["POST"]}, "GET", 1),
        ({"retry_transport_errors": True, "max_attempts": 1}, "GET", 1),
    ],
)
def test_lost_answers_are_asked_for_again_by_the_methods_that_are_set(server, given, method, attempts):
    def hang_up(call: Call) -> tuple[int, Any]:
        raise ConnectionAbortedError

    server.answer = hang_up
    config = ClientConfig(server_url=server.url, tenacity=TenacityConfig(**given))
    with pytest.raises(ServerUnavailableError, match=server.url):
        Broadaxe(token=TOKEN, config=config).rest.call(method, "/x")
    assert len(server.calls) == attempts


def test_a_read_that_succeeds_at_last_is_answered(server):
    server.answer = lambda call: (200, details()) if len(server.calls) == 3 else (404, {"message": "not yet"})
    assert client_of(server).runs.get("run-1").run.metadata.id == META["id"]


def test_a_write_is_not_repeated_for_a_404(server):
    with pytest.raises(NotFoundError):
        answering(server, {"message": "no such worker"}, 404).workers.pause("id")
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"message":"middleware"}', "middleware"),
        (b'{"description":"handler"}', "handler"),
        (b'{"errors":null}', "Bad Request"),
        (b"<html>proxy</html>", "<html>proxy"),
        (b"", "Bad Request"),
    ],
)
def test_the_servers_words_are_told_in_whatever_form(server, body, told):
    with pytest.raises(RequestRefusedError, match=told) as caught:
        answering(server, body, 400).runs.get("run-1")
    assert caught.value.code == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("answer", "told"),
    [(b"<html>", "answered no JSON but"), ({"run": 1}, "not a V1WorkflowRunDetails"), (None, "not a V1Work")],
)
def test_an_answer_of_another_form_says_so(server, answer, told):
    with pytest.raises(BroadaxeError, match=told):
        answering(server, answer).runs.get("run-1")


def test_a_server_that_cannot_be_reached_is_told_with_its_address():
    with FakeRest(lambda call: (200, {})) as server:
        url = server.url
    client = Broadaxe(token=TOKEN, config=ClientConfig(server_url=url))
    with pytest.raises(ServerUnavailableError, match=url):
        client.workers.list()


def test_a_token_without_an_address_says_what_to_set():
    client = Broadaxe(token=make_token(server_url=""))
    with pytest.raises(ConfigurationError, match="BROADAXE_CLIENT_SERVER_URL"):
        client.workers.list()


def test_every_model_of_the_package_can_be_built():
    from broadaxe import models

    for name in models.__all__:
        kind = getattr(models, name)
        if hasattr(kind, "model_json_schema"):
            assert name in str(kind.model_json_schema())
    assert {name for name in models.__all__ if name.startswith("V1")} <= {*broadaxe.__all__}
