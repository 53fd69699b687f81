"""Workflows and workers over REST, and the document that describes it all."""

import pytest

from broadaxe.wire.v1.workflows_pb2 import ConcurrencyLimitStrategy
from broadaxe_actors.definitions import TaskDefinition, WorkflowDefinition
from broadaxe_actors.messages import HeldAttempt, WorkerInfo
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records import TaskRunState, WorkerStatus
from tests.factories import make_worker, new_id
from tests.gateway.rest import official
from tests.gateway.rest.fakes import NOW, NOW_TEXT, TENANT, T, now_us, version_of

WORKFLOWS = f"/api/v1/tenants/{TENANT}/workflows"
WORKERS = f"/api/v1/tenants/{TENANT}/worker"


# ---------------------------------------------------------------- workflows


async def test_workflows_are_listed_by_name_in_pages(rest):
    body = await rest.get_json(WORKFLOWS)
    official.WorkflowList.from_dict(body)
    assert [row["name"] for row in body["rows"]] == ["diamond", "lone"]
    row = body["rows"][1]
    assert row["metadata"]["id"] == rest.record.lone.workflow_id
    assert (row["description"], row["isPaused"], row["tenantId"]) == ("one task", False, "")
    assert "versions" not in row
    assert body["pagination"] == {"current_page": 1, "next_page": 1, "num_pages": 1}
    page = await rest.get_json(WORKFLOWS, limit=1, offset=0)
    assert page["pagination"] == {"current_page": 1, "next_page": 2, "num_pages": 2}
    assert [row["name"] for row in (await rest.get_json(WORKFLOWS, name="LON"))["rows"]] == ["lone"]
    assert len((await rest.get_json(WORKFLOWS, limit=-1))["rows"]) == 2


async def test_workflow_names_its_latest_version(rest):
    first = rest.record.lone
    second = version_of(
        WorkflowDefinition("lone", (TaskDefinition("only", "lone:only", retries=1),)),
        workflow_id=first.workflow_id,
        number=2,
    )
    rest.record.versions.append(second)
    body = await rest.get_json(f"/api/v1/workflows/{first.workflow_id}")
    official.Workflow.from_dict(body)
    assert body["tenantId"] == TENANT
    (version,) = body["versions"]
    assert (version["metadata"]["id"], version["order"], version["workflowId"]) == (
        second.id,
        2,
        first.workflow_id,
    )


async def test_version_has_triggers_concurrency_and_registration(rest):
    entry = {"expression": "input.user", "max_runs": 3, "limit_strategy": "GROUP_ROUND_ROBIN"}
    row = version_of(
        WorkflowDefinition(
            "full",
            (TaskDefinition("a", "full:a", concurrency=({**entry, "max_runs": 1},), schedule_timeout="9m"),),
            event_triggers=("user:*",),
            cron_triggers=("0 * * * *",),
            concurrency=(entry,),
            sticky="HARD",
            default_priority=2,
            input_json_schema='{"type": "object"}',
        )
    )
    rest.record.versions.append(row)
    path = f"/api/v1/workflows/{row.workflow_id}/versions"
    body = await rest.get_json(path)
    official.WorkflowVersion.from_dict(body)
    assert (body["order"], body["sticky"], body["defaultPriority"]) == (1, "hard", 2)
    assert body["scheduleTimeout"] == "9m"
    assert body["inputJsonSchema"] == {"type": "object"}
    assert body["triggers"]["events"] == [{"parent_id": row.id, "event_key": "user:*"}]
    assert body["triggers"]["crons"] == [{"parent_id": row.id, "cron": "0 * * * *"}]
    assert body["v1Concurrency"] == [
        {
            "maxRuns": 1,
            "limitStrategy": "GROUP_ROUND_ROBIN",
            "expression": "input.user",
            "stepReadableId": "a",
            "scope": "TASK",
        },
        {
            "maxRuns": 3,
            "limitStrategy": "GROUP_ROUND_ROBIN",
            "expression": "input.user",
            "scope": "WORKFLOW",
        },
    ]
    assert body["workflowConfig"]["name"] == "full"
    assert await rest.get_json(path, version=row.id) == body
    assert (await rest.get(path, version=new_id())).status_code == 404
    # A version of another workflow is none of this one.
    assert (await rest.get(path, version=rest.record.lone.id)).status_code == 404


async def test_every_strategy_can_be_read_by_the_official_client(rest):
    names = [name for name in ConcurrencyLimitStrategy.keys() if name not in ("DROP_NEWEST", "QUEUE_NEWEST")]  # noqa: SIM118
    entries = tuple({"expression": "'a'", "max_runs": 1, "limit_strategy": name} for name in names)
    row = version_of(WorkflowDefinition("limits", (TaskDefinition("a", "limits:a"),), concurrency=entries))
    rest.record.versions.append(row)
    body = await rest.get_json(f"/api/v1/workflows/{row.workflow_id}/versions")
    assert len(official.WorkflowVersion.from_dict(body).v1_concurrency) == len(names)
    config = body["workflowConfig"]["concurrency"]
    assert [entry["limit_strategy"] for entry in config] == names


async def test_workflow_of_another_tenant_looks_like_none(rest):
    for path in (
        f"/api/v1/workflows/{rest.record.lone.workflow_id}",
        f"/api/v1/workflows/{rest.record.lone.workflow_id}/versions",
        f"/api/v1/workflows/{rest.record.lone.workflow_id}/versions?version={rest.record.lone.id}",
    ):
        assert (await rest.get(path)).status_code == 200
        answer = await rest.client.get(path, headers={"Authorization": "Bearer foreign"})
        assert answer.status_code == 404
    assert (await rest.get(f"/api/v1/workflows/{new_id()}")).status_code == 404
    foreign = await rest.client.get(WORKFLOWS, headers={"Authorization": "Bearer foreign"})
    assert foreign.status_code == 403


# ---------------------------------------------------------------- workers


def info_of(worker_id, **fields):
    values = {
        "worker_id": worker_id,
        "name": "live",
        "actions": ("lone:only",),
        "slot_config": (("default", 10),),
        "used_slots": (("default", 3),),
        "labels": (("memory", 512), ("zone", "eu")),
        "runtime_info": '{"language":"PYTHON","sdk_version":"1"}',
        "is_paused": False,
        "is_connected": True,
        "last_heartbeat_at": now_us(),
        "last_session_at": now_us(),
        "created_at": NOW,
        "updated_at": NOW,
        "in_flight": (),
    }
    return WorkerInfo(**(values | fields))


def recorded(rest, **fields):
    row = make_worker(**({"id": new_id(), "tenant_id": TENANT, "updated_at": now_us()} | fields))
    rest.record.workers.append(row)
    return row


async def test_workers_are_listed_as_the_engine_knows_them(rest):
    live = recorded(rest)
    rest.engine.workers[live.id] = info_of(live.id)
    gone = recorded(rest, status=WorkerStatus.STOPPED, name="gone", slot_config='{"default": 4}')
    forgotten = recorded(rest, name="forgotten")
    recorded(rest, updated_at=now_us() - 25 * 3_600_000_000, status=WorkerStatus.STOPPED)
    body = await rest.get_json(WORKERS)
    official.WorkerList.from_dict(body)
    one, two, three = body["rows"]
    assert (one["name"], one["status"]) == ("live", "ACTIVE")
    assert one["slotConfig"] == {"default": {"limit": 10, "available": 7}}
    assert one["runtimeInfo"]["language"] == "PYTHON"
    assert "recentStepRuns" not in one
    assert (two["metadata"]["id"], two["status"]) == (gone.id, "INACTIVE")
    assert two["slotConfig"] == {"default": {"limit": 4, "available": 4}}
    assert "lastHeartbeatAt" not in two
    assert (three["metadata"]["id"], three["status"]) == (forgotten.id, "INACTIVE")
    # Who has said goodbye is not asked about.
    assert [asked[2] for asked in rest.engine.asked] == [live.id, forgotten.id]


async def test_workers_are_chosen_by_status_and_labels(rest):
    for name, is_paused in (("one", False), ("two", True)):
        row = recorded(rest)
        rest.engine.workers[row.id] = info_of(row.id, name=name, is_paused=is_paused)
    recorded(rest, status=WorkerStatus.STOPPED, name="three", labels='{"zone": "eu"}')

    async def names(**params):
        return [row["name"] for row in (await rest.get_json(WORKERS, **params))["rows"]]

    assert await names(statuses=["PAUSED", "INACTIVE"]) == ["two", "three"]
    assert await names(labels=["zone:eu", "memory:512"]) == ["one", "two"]
    assert await names(labels="zone:us") == []
    assert await names(limit=1, offset=1) == ["two"]
    body = await rest.get_json(WORKERS, limit=2, offset=2)
    assert body["pagination"] == {"current_page": 2, "next_page": 2, "num_pages": 2}
    for params in ({"labels": "zone"}, {"statuses": "GONE"}, {"limit": 0}):
        assert (await rest.get(WORKERS, **params)).status_code == 400


async def test_one_worker_shows_its_tasks_and_workflows(rest):
    running = rest.record.add(
        rest.record.lone, state=TaskRunState.RUNNING, assigned_at=NOW, started_at=NOW, worker_id=new_id()
    )
    live = recorded(rest)
    rest.engine.workers[live.id] = info_of(
        live.id, in_flight=(HeldAttempt(running.id, 0), HeldAttempt(new_id(), 0))
    )
    body = await rest.get_json(f"/api/v1/workers/{live.id}")
    official.Worker.from_dict(body)
    assert body["slots"] == [
        {
            "stepRunId": running.id,
            "actionId": "lone:only",
            "startedAt": NOW_TEXT,
            "workflowRunId": running.id,
            "status": "RUNNING",
        }
    ]
    assert body["registeredWorkflows"] == [{"id": rest.record.lone.workflow_id, "name": "lone"}]
    assert body["recentStepRuns"] == []


async def test_worker_that_has_gone_is_read_from_the_record(rest):
    gone = recorded(rest, status=WorkerStatus.STOPPED, actions=("diamond:left",))
    body = await rest.get_json(f"/api/v1/workers/{gone.id}")
    official.Worker.from_dict(body)
    assert (body["status"], body["slots"]) == ("INACTIVE", [])
    assert [workflow["name"] for workflow in body["registeredWorkflows"]] == ["diamond"]
    foreign = await rest.client.get(f"/api/v1/workers/{gone.id}", headers={"Authorization": "Bearer foreign"})
    assert foreign.status_code == 404
    paused = await rest.client.patch(f"/api/v1/workers/{gone.id}", json={"isPaused": True})
    assert paused.status_code == 404


# ---------------------------------------------------------------- the document


async def test_document_describes_every_route(rest):
    answer = await rest.client.get("/api/v1/openapi.json", headers={"Authorization": ""})
    assert answer.status_code == 200
    document = answer.json()
    tenant = "/api/v1/stable/tenants/{tenant}"
    workflows = "/api/v1/tenants/{tenant}/workflows"
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert described >= {
        ("get", "/api/v1/version"),
        ("get", "/api/v1/cloud/metadata"),
        ("get", f"{workflows}/crons"),
        ("post", f"{workflows}/{{workflow}}/crons"),
        *((method, f"{workflows}/crons/{{cron}}") for method in ("get", "patch", "delete", "post")),
        ("get", f"{workflows}/scheduled"),
        ("post", f"{workflows}/{{workflow}}/scheduled"),
        *((method, f"{workflows}/scheduled/{{scheduled}}") for method in ("get", "patch", "delete", "post")),
        ("post", f"{workflows}/scheduled/bulk-delete"),
        ("post", f"{workflows}/scheduled/bulk-update"),
        ("get", f"{tenant}/workflow-runs"),
        ("get", f"{tenant}/workflow-runs/external-ids"),
        ("get", f"{tenant}/workflow-runs/display-names"),
        ("post", f"{tenant}/workflow-runs/trigger"),
        ("get", "/api/v1/stable/workflow-runs/{run}"),
        ("get", "/api/v1/stable/workflow-runs/{run}/status"),
        ("get", "/api/v1/stable/workflow-runs/{run}/task-events"),
        ("get", "/api/v1/stable/workflow-runs/{run}/task-timings"),
        ("get", "/api/v1/stable/tasks/{task}"),
        ("get", "/api/v1/stable/tasks/{task}/task-events"),
        ("get", "/api/v1/stable/tasks/{task}/logs"),
        ("post", f"{tenant}/tasks/cancel"),
        ("post", f"{tenant}/tasks/replay"),
        ("get", f"{tenant}/logs"),
        ("get", f"{tenant}/events"),
        ("get", f"{tenant}/events/keys"),
        ("get", f"{tenant}/events/{{event}}"),
        ("get", "/api/v1/events/{event}"),
        ("get", "/api/v1/events/{event}/data"),
        ("get", "/api/v1/tenants/{tenant}/events/{event}/data"),
        ("get", f"{tenant}/filters"),
        ("post", f"{tenant}/filters"),
        ("get", f"{tenant}/filters/{{filter}}"),
        ("patch", f"{tenant}/filters/{{filter}}"),
        ("delete", f"{tenant}/filters/{{filter}}"),
        ("post", f"{tenant}/cel/debug"),
        ("get", "/api/v1/tenants/{tenant}/workflows"),
        ("get", "/api/v1/workflows/{workflow}"),
        ("patch", "/api/v1/workflows/{workflow}"),
        ("get", "/api/v1/workflows/{workflow}/versions"),
        ("get", "/api/v1/tenants/{tenant}/task-stats"),
        ("get", "/api/v1/tenants/{tenant}/step-run-queue-metrics"),
        ("get", "/api/v1/tenants/{tenant}/prometheus-metrics"),
        ("get", "/api/v1/tenants/{tenant}/worker"),
        ("get", "/api/v1/workers/{worker}"),
        ("patch", "/api/v1/workers/{worker}"),
        ("get", "/api/v1/tenants/{tenant}/rate-limits"),
        ("delete", "/api/v1/tenants/{tenant}/rate-limits"),
        ("get", "/api/v1/stable/tenants/{tenant}/workflow-runs/count"),
        ("get", "/api/v1/stable/tenants/{tenant}/task-metrics"),
        ("get", "/api/v1/stable/tenants/{tenant}/task-point-metrics"),
        ("get", "/api/v1/stable/tenants/{tenant}/log-point-metrics"),
        ("get", "/api/v1/stable/dags/tasks"),
        ("post", "/api/v1/stable/tasks/{task}/restore"),
        ("get", "/api/v1/stable/tenants/{tenant}/durable-tasks/{task}"),
        ("post", "/api/v1/stable/tenants/{tenant}/durable-tasks/branch"),
        ("get", "/api/v1/stable/tenants/{tenant}/traces"),
        ("delete", "/api/v1/workflows/{workflow}"),
        ("get", "/api/v1/tenants/{tenant}/entitlements"),
    }
    summary = document["components"]["schemas"]["TaskSummary"]
    required = {"metadata", "createdAt", "displayName", "input", "output", "status", "taskExternalId"}
    assert required <= set(summary["required"])
    assert summary["properties"]["workflowRunExternalId"]["type"] == "string"
    trigger = document["paths"][f"{tenant}/workflow-runs/trigger"]["post"]
    schema = trigger["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["required"]) == {"workflowName", "input"}


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
async def test_no_other_document_is_served(rest, path):
    assert (await rest.get(path)).status_code == 404


async def test_database_that_is_away_is_503_without_details(rest, monkeypatch):
    async def fail(*_, **__):
        raise Unavailable("postgres://secret@host is away")

    monkeypatch.setattr(rest.record, "list_workflows", fail)
    answer = await rest.get(WORKFLOWS)
    assert answer.status_code == 503
    assert answer.json() == {"message": "the database cannot be reached at the moment: try again"}


@pytest.mark.parametrize(
    "path",
    [
        f"{WORKFLOWS}?name=a%00b",
        f"/api/v1/tenants/{TENANT}/rate-limits?search=%00",
        f"{T}/logs?search=%00",
        f"{T}/workflow-runs?since=2026-01-01T00:00:00Z&only_tasks=false&idempotency_keys=%00",
        f"{T}/workflow-runs?since=2026-01-01T00:00:00Z&only_tasks=false&additional_metadata=a:%00",
    ],
)
async def test_null_characters_do_not_reach_the_database(rest, path):
    answer = await rest.client.get(path)
    assert answer.status_code == 400
    assert "null character" in answer.text
