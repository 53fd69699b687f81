"""Idempotency collisions: what clients of either contract are told, read back by Google's own classes and by hatchet-sdk."""

import asyncio
import base64
import json
import sys

import grpc
import pytest
from google.rpc import status_pb2

from broadaxe.wire import stream_pb2 as s
from broadaxe.wire import workflows_pb2 as w
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2 as t
from broadaxe_actors import messages as m
from broadaxe_actors.errors import Code
from tests.gateway.rpc.fakes import TENANT, TOKENS, new_id, running_gateway

ONE = ("/WorkflowService/TriggerWorkflow", w.TriggerWorkflowResponse, t.TriggerWorkflowRequest(name="f"))
ADMIN = (
    "/v1.AdminService/TriggerWorkflowRun",
    v1.TriggerWorkflowRunResponse,
    v1.TriggerWorkflowRunRequest(workflow_name="f"),
)
BULK = (
    "/WorkflowService/BulkTriggerWorkflow",
    w.BulkTriggerWorkflowResponse,
    w.BulkTriggerWorkflowRequest(workflows=[t.TriggerWorkflowRequest(name="f") for _ in range(3)]),
)


@pytest.fixture
async def gateway():
    async with running_gateway() as running:
        yield running


def collide(gateway, detail):
    gateway.engine.answers[m.TriggerRuns] = lambda q: m.Refusal(
        0, Code.ALREADY_EXISTS, "the key 'order-1' is held by run ...", detail
    )


async def details_of(gateway, path, response, request):
    """Code, text and the one detail of the refusal: its type and its bytes."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await gateway.unary(path, response)(request)
    status = status_pb2.Status.FromString(dict(error.value.trailing_metadata())["grpc-status-details-bin"])
    assert status.code == error.value.code().value[0]
    assert status.message == error.value.details()
    (detail,) = status.details
    return error.value.code(), error.value.details(), detail


@pytest.mark.parametrize("call", [ONE, ADMIN])
@pytest.mark.parametrize("is_many", [False, True])
async def test_collision_of_one_run_names_both_runs(gateway, call, is_many):
    existing, colliding = new_id(), new_id()
    collision = m.IdempotencyCollision(existing, colliding)
    collide(gateway, m.IdempotencyCollisions((), (collision,)) if is_many else collision)
    code, text, detail = await details_of(gateway, *call)
    assert (code, text) == (grpc.StatusCode.ALREADY_EXISTS, "idempotency key collision")
    assert detail.type_url == "type.googleapis.com/v1.IdempotencyCollisionError"
    assert v1.IdempotencyCollisionError.FromString(detail.value) == v1.IdempotencyCollisionError(
        existing_run_external_id=existing, colliding_run_external_id=colliding
    )


@pytest.mark.parametrize("is_many", [False, True])
async def test_collisions_of_a_bulk_tell_what_was_created(gateway, is_many):
    created, existing, colliding = new_id(), new_id(), new_id()
    collision = m.IdempotencyCollision(existing, colliding)
    collide(gateway, m.IdempotencyCollisions((created,), (collision,)) if is_many else collision)
    code, text, detail = await details_of(gateway, *BULK)
    assert (code, text) == (grpc.StatusCode.ALREADY_EXISTS, "idempotency key collision")
    assert detail.type_url == "type.googleapis.com/v1.BulkTriggerIdempotencyCollisionError"
    found = v1.BulkTriggerIdempotencyCollisionError.FromString(detail.value)
    assert list(found.successful_workflow_run_external_ids) == ([created] if is_many else [])
    assert [(one.existing_run_external_id, one.colliding_run_external_id) for one in found.collisions] == [
        (existing, colliding)
    ]


async def test_details_that_do_not_fit_are_cut_and_not_lost(gateway, caplog):
    detail = m.IdempotencyCollisions(
        tuple(new_id() for _ in range(400)),
        tuple(m.IdempotencyCollision(new_id(), new_id()) for _ in range(600)),
    )
    collide(gateway, detail)
    code, _, found = await details_of(gateway, *BULK)
    assert code is grpc.StatusCode.ALREADY_EXISTS
    told = v1.BulkTriggerIdempotencyCollisionError.FromString(found.value)
    created, collided = told.successful_workflow_run_external_ids, told.collisions
    assert tuple(created) == detail.created_run_ids[: len(created)]
    assert len(created) > 20
    assert collided[0].existing_run_external_id == detail.collisions[0].existing_run_id
    assert len(collided) > 30
    assert f"of {len(created)} of 400 runs created and of {len(collided)} of 600 collisions" in caplog.text


async def test_other_refusals_have_no_details(gateway):
    gateway.engine.answers[m.TriggerRuns] = lambda q: m.Refusal(0, Code.ALREADY_EXISTS, "the run exists")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await gateway.unary(ONE[0], ONE[1])(ONE[2])
    assert error.value.details() == "the run exists"
    assert "grpc-status-details-bin" not in dict(error.value.trailing_metadata())


async def test_client_stream_tells_collisions_and_watches_what_was_created(gateway):
    created, collided, existing = new_id(), new_id(), new_id()
    collide(gateway, m.IdempotencyCollisions((created,), (m.IdempotencyCollision(existing, collided),)))
    stream = gateway.both_stream("/broadaxe.v1.Engine/ClientStream", s.ClientDown)
    runs = [s.NewRun(run_id=run_id, workflow_name="f") for run_id in (created, collided)]
    await stream.write(s.ClientUp(triggers=[s.TriggerRuns(request=7, watch=True, runs=runs)]))
    (reply,) = (await stream.read()).replies
    assert (reply.request, reply.refusal.code) == (7, Code.ALREADY_EXISTS)
    assert list(reply.refusal.created_run_ids) == [created]
    assert list(reply.refusal.collisions) == [
        s.Collision(existing_run_id=existing, colliding_run_id=collided)
    ]
    (unwatch,) = await gateway.engine.seen(m.UnwatchRuns)
    assert unwatch.run_ids == (collided,)
    gateway.engine.push(m.RunFinished(TENANT, created, 6, ()))
    assert [done.run_id for done in (await stream.read()).finished] == [created]
    stream.cancel()


HATCHET = """
import asyncio, json, sys
from hatchet_sdk import Hatchet
from hatchet_sdk.exceptions import BulkTriggerIdempotencyCollisionError, IdempotencyCollisionError

hatchet = Hatchet()
task = hatchet.task(name="f")(lambda input, ctx: {})
found = []
for run in (lambda: task.run(wait_for_result=False), lambda: asyncio.run(task.aio_run(wait_for_result=False))):
    try:
        run()
    except IdempotencyCollisionError as error:
        found.append(error.existing_run_external_id)
try:
    task.run_many([task.create_bulk_run_item(), task.create_bulk_run_item()], wait_for_result=False)
except BulkTriggerIdempotencyCollisionError as error:
    found.append(list(error.successful_workflow_run_external_ids))
    found.append([one.existing_run_external_id for one in error.collisions])
print(json.dumps(found))
"""


def hatchet_token(address):
    """A token that hatchet-sdk can read; it verifies none."""
    claims = {"sub": TENANT, "server_url": "http://127.0.0.1:1", "grpc_broadcast_address": address}
    parts = ({"alg": "ES256"}, claims)
    head, body = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{head}.{body}.c2ln"


async def test_hatchet_sdk_raises_its_own_errors(gateway, monkeypatch):
    created, existing = new_id(), new_id()
    one = m.IdempotencyCollision(existing, new_id())
    gateway.engine.answers[m.TriggerRuns] = lambda q: m.Refusal(
        0,
        Code.ALREADY_EXISTS,
        "held",
        one if len(q.runs) == 1 else m.IdempotencyCollisions((created,), (one,)),
    )
    token = hatchet_token(f"127.0.0.1:{gateway.port}")
    monkeypatch.setitem(TOKENS, token, TENANT)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HATCHET,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"HATCHET_CLIENT_TOKEN": token, "HATCHET_CLIENT_TLS_STRATEGY": "none", "PATH": ""},
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert json.loads(out.decode().splitlines()[-1]) == [existing, existing, [created], [existing]]
