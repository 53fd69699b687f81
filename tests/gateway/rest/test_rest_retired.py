"""Routes without anything behind them, yet or any more: retired ones, durable tasks, traces; and the tasks of several runs at once."""

import json

import pytest

from broadaxe_gateway.http.rest.retired import BROKEN, RETIRED
from broadaxe_storage.records import TaskRunState as S
from tests.factories import new_id
from tests.gateway.rest import official
from tests.gateway.rest.fakes import OTHER_TENANT, TENANT, T


def concrete(path: str) -> str:
    path = "/api/v1" + path.replace("{tenant}", TENANT)
    for name in ("run", "workflow", "step_run", "webhook"):
        path = path.replace(f"{{{name}}}", new_id())
    return path


@pytest.mark.parametrize(
    ("status", "method", "path"),
    [(400, method, path) for method, path, _ in RETIRED]
    + [(500, method, path) for method, path, _ in BROKEN],
)
async def test_a_retired_route_says_so_to_who_may_call_it(rest, status, method, path):
    answer = await rest.client.request(method, concrete(path), content=b"{}")
    assert answer.status_code == status
    (error,) = answer.json()["errors"]
    assert "deprecated" in error["description"]
    assert "/api/v1" in error["description"] or "/webhooks" in error["description"]
    stranger = await rest.client.request(method, concrete(path), headers={"Authorization": "Bearer bad"})
    assert (stranger.status_code, list(stranger.json())) == (403, ["message"])


# ---------------------------------------------------------------- durable tasks


async def test_a_restore_of_a_task_that_is_not_evicted_does_nothing(rest):
    row = rest.record.add(rest.record.lone, state=S.COMPLETED)
    answer = await rest.post(f"/api/v1/stable/tasks/{row.id}/restore", b"")
    assert answer.status_code == 200
    assert official.V1RestoreTaskResponse.from_dict(answer.json()).requeued is True
    assert rest.engine.asked == []
    assert (await rest.post(f"/api/v1/stable/tasks/{new_id()}/restore", b"")).status_code == 404


async def test_the_log_of_a_task_that_is_not_durable_is_empty(rest):
    row = rest.record.add(rest.record.lone)
    assert await rest.get_json(f"{T}/durable-tasks/{row.id}", offset=0, limit=5) == []
    assert (await rest.get(f"{T}/durable-tasks/{new_id()}")).status_code == 404
    assert (await rest.get(f"{T}/durable-tasks/{row.id}", limit=0)).status_code == 400


async def test_a_branch_is_refused_for_what_is_missing(rest):
    row = rest.record.add(rest.record.lone)
    body = {"taskExternalId": row.id, "nodeId": 2, "branchId": 1}
    answer = await rest.post(f"{T}/durable-tasks/branch", body)
    assert answer.status_code == 501
    text = answer.json()["errors"][0]["description"]
    assert row.id in text
    assert "not supported yet" in text
    assert (
        await rest.post(f"{T}/durable-tasks/branch", {**body, "taskExternalId": new_id()})
    ).status_code == 404
    assert (await rest.post(f"{T}/durable-tasks/branch", {"nodeId": 2})).status_code == 400


async def test_there_are_no_spans(rest):
    found = await rest.get_json(f"{T}/traces", run_external_id=new_id(), offset=0, limit=10)
    assert official.OtelSpanList.from_dict(found).rows == []
    assert (await rest.get(f"{T}/traces")).status_code == 400


# ---------------------------------------------------------------- tasks of several runs


async def test_tasks_of_runs_are_listed_run_by_run(rest):
    runs = [rest.record.add_run_of_several(metadata=json.dumps({"n": n})) for n in range(2)]
    tasks = [[rest.record.add_task(run, index).id for index in (1, 0)] for run in runs]
    lone = rest.record.add(rest.record.lone)
    asked = [runs[1].id, runs[0].id, lone.id, new_id()]
    found = await rest.get_json("/api/v1/stable/dags/tasks", dag_ids=asked, tenant=TENANT)
    for row in found:
        official.V1DagChildren.from_dict(row)
    assert [row["dagId"] for row in found] == [runs[1].id, runs[0].id]
    assert [task["taskExternalId"] for task in found[0]["children"]] == tasks[1][::-1]
    assert [task["actionId"] for task in found[0]["children"]] == ["diamond:top", "diamond:left"]
    assert found[1]["children"][0]["additionalMetadata"] == {"n": 0}


async def test_tasks_of_runs_are_those_of_the_tokens_tenant(rest):
    run = rest.record.add_run_of_several()
    path = "/api/v1/stable/dags/tasks"
    assert (await rest.get(path, dag_ids=[run.id], tenant=OTHER_TENANT)).status_code == 403
    assert (await rest.get(path, tenant=TENANT)).status_code == 400
    many = [new_id() for _ in range(1_001)]
    answer = await rest.get(path, dag_ids=many, tenant=TENANT)
    assert (answer.status_code, "1,001 runs" in answer.text) == (400, True)
