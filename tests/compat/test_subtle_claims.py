"""The subtle places of the wire contract (`behaviour-core.md` 7.7) around batch tasks and idempotency.

Each speaks the bare wire: what it sends and what it must see are the contract, whatever an SDK makes of it.
"""

import json
import time
import uuid
from typing import Any

import grpc
import pytest

from broadaxe.wire import dispatcher_pb2 as dispatcher
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import trigger_pb2 as triggers
from tests.compat.calls import (
    BATCH,
    STOP,
    Step,
    cancel,
    payload_of,
    put,
    replay,
    send_batch,
)
from tests.compat.conftest import Workers
from tests.compat.wire import BareWorker, Wire, unique

pytestmark = pytest.mark.timeout(120)
BareWorkers = type[Workers]

ALREADY = grpc.StatusCode.ALREADY_EXISTS
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
Item = dispatcher.BatchActionEventItem


def started(wire: Wire, workers: BareWorkers, **fields: Any) -> tuple[BareWorker, str, str]:
    """A worker, the name of a workflow it serves, and the id of a run just triggered."""
    name = unique("subtle")
    worker = workers.of(wire.put_workflow(name, **fields))
    return worker, name, wire.trigger(name, '{"n": 1}')


# ---- 7: batches


def batched(wire: Wire, workers: BareWorkers, count: int, **config: Any) -> tuple[BareWorker, str, list[str]]:
    """A worker, the name of a batch task, and runs of it that make one batch."""
    name = unique("batch")
    settings = {"batch_max_size": count, "batch_max_interval_ms": 60_000, **config}
    worker = workers.of(wire.put_workflow(name, batch=v1.TaskBatchConfig(**settings)))
    requests = [triggers.TriggerWorkflowRequest(name=name, input=json.dumps({"n": n})) for n in range(count)]
    return worker, name, wire.bulk_trigger(*requests)


def test_07_one_start_holds_every_member_by_its_id(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, name, run_ids = batched(wire, bare_worker, 3)
    action = worker.next()
    assert action.action_type == BATCH
    assert action.action_id == f"{name}:only"
    assert (action.retry_count, action.workflow_run_id, action.task_run_external_id) == (0, "", "")
    assert action.batchId
    assert action.batchStartPayload.expectedSize == 3
    assert "3" in action.batchStartPayload.triggerReason
    members = payload_of(action)
    assert sorted(members) == sorted(run_ids)
    for n, run_id in enumerate(run_ids):
        assert members[run_id]["workflow_run_id"] == run_id
        payload = members[run_id]["payload"]
        assert payload["input"] == {"n": n}
        assert payload["parents"] == {}
        assert payload["triggers"] == {"filter_payload": None}


def test_07_members_end_each_on_its_own(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, (one, two, three) = batched(wire, bare_worker, 3)
    action = worker.next()
    send_batch(wire, action, dispatcher.STEP_EVENT_TYPE_STARTED, [Item(task_run_external_id=one)])
    send_batch(
        wire,
        action,
        dispatcher.STEP_EVENT_TYPE_COMPLETED,
        [Item(task_run_external_id=one, event_payload='{"v": 1}')],
    )
    send_batch(
        wire,
        action,
        dispatcher.STEP_EVENT_TYPE_FAILED,
        [Item(task_run_external_id=two, event_payload="two is broken")],
    )
    send_batch(
        wire,
        action,
        dispatcher.STEP_EVENT_TYPE_COMPLETED,
        [Item(task_run_external_id=three, event_payload="{broken json")],
    )
    assert json.loads(wire.result(one).output) == {"v": 1}
    assert wire.result(two).error == "two is broken"
    assert "taskOutput" in wire.result(three).error


def test_07_item_with_retry_count_zero_means_the_attempt_in_the_batch(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    """Python copies the count of the start, which is always 0, for members whose attempt is another."""
    worker, _, run_ids = batched(wire, bare_worker, 2)

    def finish(text: str) -> None:
        action = worker.next()
        assert (action.action_type, action.retry_count) == (BATCH, 0)
        items = [Item(task_run_external_id=one, event_payload=text, retry_count=0) for one in run_ids]
        send_batch(wire, action, dispatcher.STEP_EVENT_TYPE_COMPLETED, items)
        assert [wire.result(one).output for one in run_ids] == [text, text]

    finish('{"time": 1}')
    replay(wire, *run_ids)
    finish('{"time": 2}')


def test_07_batch_takes_one_slot_until_its_last_member(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("batch")
    config = v1.TaskBatchConfig(batch_max_size=2, batch_max_interval_ms=60_000)
    worker = bare_worker.of(wire.put_workflow(name, batch=config), slots=1)
    request = triggers.TriggerWorkflowRequest(name=name, input="{}")
    one, two = wire.bulk_trigger(request, request)
    action = worker.next()
    later = wire.bulk_trigger(request, request)

    def complete(run_id: str, batch: dispatcher.AssignedAction) -> None:
        items = [Item(task_run_external_id=run_id, event_payload="{}")]
        send_batch(wire, batch, dispatcher.STEP_EVENT_TYPE_COMPLETED, items)

    complete(one, action)
    assert worker.stream.silent_for(0.8)  # one member still has the slot
    complete(two, action)
    second = worker.next()
    assert sorted(payload_of(second)) == sorted(later)


def test_07_cancel_of_a_member_names_it_and_spares_the_others(wire: Wire, bare_worker: BareWorkers) -> None:
    worker, _, (one, two) = batched(wire, bare_worker, 2)
    action = worker.next()
    cancel(wire, one)
    stop = worker.next()
    assert (stop.action_type, stop.task_run_external_id) == (STOP, one)
    assert stop.batchId == action.batchId
    items = [Item(task_run_external_id=two, event_payload='{"v": 2}')]
    send_batch(wire, action, dispatcher.STEP_EVENT_TYPE_COMPLETED, items)
    assert json.loads(wire.result(two).output) == {"v": 2}
    cancelled = wire.result(one)
    assert cancelled.HasField("error")
    assert cancelled.error == ""


def test_07_members_are_grouped_by_their_key(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("batch")
    config = v1.TaskBatchConfig(
        batch_max_size=2, batch_max_interval_ms=60_000, batch_group_key="input.customer"
    )
    worker = bare_worker.of(wire.put_workflow(name, batch=config))
    requests = [
        triggers.TriggerWorkflowRequest(name=name, input=json.dumps({"customer": customer}))
        for customer in ("a", "b", "b", "a")
    ]
    ids = wire.bulk_trigger(*requests)
    batches = {action.batchKey: sorted(payload_of(action)) for action in (worker.next(), worker.next())}
    assert batches == {"a": sorted((ids[0], ids[3])), "b": sorted((ids[1], ids[2]))}


def test_07_key_that_is_no_string_fails_the_member(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("batch")
    config = v1.TaskBatchConfig(batch_max_size=2, batch_group_key="input.n")
    bare_worker.of(wire.put_workflow(name, batch=config))
    for value in ('{"n": 1}', '{"other": 1}'):
        run_id = wire.trigger(name, value)
        error = wire.result(run_id, timeout=20).error
        assert "input.n" in error, error


def test_07_interval_starts_what_is_there(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("batch")
    config = v1.TaskBatchConfig(batch_max_size=100, batch_max_interval_ms=1_000)
    worker = bare_worker.of(wire.put_workflow(name, batch=config))
    began = time.monotonic()
    run_id = wire.trigger(name)
    action = worker.next()
    assert list(payload_of(action)) == [run_id]
    assert time.monotonic() - began < 3.0
    assert action.batchStartPayload.expectedSize == 1


def test_07_execution_timeout_fails_the_whole_batch(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("batch")
    config = v1.TaskBatchConfig(batch_max_size=2, batch_max_interval_ms=60_000)
    worker = bare_worker.of(wire.put_workflow(name, batch=config, timeout="1s"))
    request = triggers.TriggerWorkflowRequest(name=name, input="{}")
    run_ids = wire.bulk_trigger(request, request)
    worker.next()
    for run_id in run_ids:
        assert "batch timeout" in wire.result(run_id, timeout=20).error


# ---- 13: idempotency


def claimed(wire: Wire, workers: BareWorkers, *, ttl_ms: int = 60_000, method: Any = None) -> str:
    """A workflow whose runs claim the key `input.key`."""
    name = unique("once")
    config = v1.IdempotencyConfig(expression="input.key", ttl_ms=ttl_ms, method=method)
    actions = put(wire, name, Step("only"), idempotency=config)
    workers.of(*actions)
    return name


def collision(call: Any) -> tuple[str, Any]:
    """Message and status details of a call that must collide."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    assert error.code() == ALREADY, error
    trailers = dict(error.trailing_metadata() or ())
    return str(error.details()), trailers["grpc-status-details-bin"]


def unpacked(details: bytes, message: Any) -> Any:
    """The one detail of a status, which must be of the type named as in the original."""
    from google.protobuf import any_pb2

    # google.rpc.Status: code 1, message 2, details 3; read by hand, as its Python module is not installed
    position, values = 0, []
    while position < len(details):
        tag, position = details[position], position + 1
        length, shift = 0, 0
        while True:
            byte = details[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if tag & 7 == 2:
            if tag >> 3 == 3:
                values.append(any_pb2.Any.FromString(details[position : position + length]))
            position += length
    assert len(values) == 1
    assert values[0].type_url.endswith(f"/v1.{message.DESCRIPTOR.name}"), values[0].type_url
    return message.FromString(values[0].value)


def test_13_collision_says_the_literal_text_and_the_existing_run(
    wire: Wire, bare_worker: BareWorkers
) -> None:
    name, key = claimed(wire, bare_worker), unique("key")
    first = wire.trigger(name, json.dumps({"key": key}))
    text, details = collision(lambda: wire.trigger(name, json.dumps({"key": key})))
    assert text == "idempotency key collision"
    error = unpacked(details, v1.IdempotencyCollisionError)
    assert error.existing_run_external_id == first
    assert uuid.UUID(error.colliding_run_external_id) != uuid.UUID(first)


def test_13_keys_are_claimed_across_workflows(wire: Wire, bare_worker: BareWorkers) -> None:
    one, other, key = claimed(wire, bare_worker), claimed(wire, bare_worker), unique("key")
    first = wire.trigger(one, json.dumps({"key": key}))
    _, details = collision(lambda: wire.trigger(other, json.dumps({"key": key})))
    assert unpacked(details, v1.IdempotencyCollisionError).existing_run_external_id == first


def test_13_bulk_creates_what_does_not_collide(wire: Wire, bare_worker: BareWorkers) -> None:
    name = claimed(wire, bare_worker)
    taken, free, twice = (unique("key") for _ in range(3))
    first = wire.trigger(name, json.dumps({"key": taken}))

    def entry(key: str) -> triggers.TriggerWorkflowRequest:
        return triggers.TriggerWorkflowRequest(name=name, input=json.dumps({"key": key}))

    text, details = collision(
        lambda: wire.bulk_trigger(entry(taken), entry(free), entry(twice), entry(twice))
    )
    assert text == "idempotency key collision"
    error = unpacked(details, v1.BulkTriggerIdempotencyCollisionError)
    created = list(error.successful_workflow_run_external_ids)
    assert len(created) == 2
    assert sorted(json.loads(wire.details(run_id).input)["key"] for run_id in created) == sorted(
        (free, twice)
    )
    assert len(error.collisions) == 2
    existing = {one.existing_run_external_id for one in error.collisions}
    assert first in existing
    assert existing - {first} < set(created)


def test_13_key_that_cannot_be_computed_is_told_to_who_triggers(wire: Wire, bare_worker: BareWorkers) -> None:
    """The original answers the id of a run that never exists: who waits for it waits for ever."""
    name = claimed(wire, bare_worker)
    try:
        run_id = wire.trigger(name, '{"other": 1}')
    except grpc.RpcError as error:
        assert error.code() == INVALID  # noqa: PT017 - a refusal is as good as a failed run
        text = error.details() or ""
    else:
        text = wire.result(run_id).error
    assert "input.key" in text


def test_13_spawn_of_an_existing_child_is_no_collision(wire: Wire, bare_worker: BareWorkers) -> None:
    name, key = claimed(wire, bare_worker), unique("key")
    worker, _, parent = started(wire, bare_worker)
    worker.next()
    fields = {"parent_task_run_external_id": parent, "child_index": 0}
    child = wire.trigger(name, json.dumps({"key": key}), **fields)
    assert wire.trigger(name, json.dumps({"key": key}), **fields) == child


def test_13_status_method_frees_the_key_at_the_end(wire: Wire, bare_worker: BareWorkers) -> None:
    name = unique("once")
    config = v1.IdempotencyConfig(expression="input.key", ttl_ms=600_000, method=v1.STATUS)
    worker = bare_worker.of(*put(wire, name, Step("only", fields={"retries": 1}), idempotency=config))
    value = json.dumps({"key": unique("key")})
    first = wire.trigger(name, value)
    wire.fail(worker.next(), "once")
    collision(lambda: wire.trigger(name, value))  # a retry is pending
    action = worker.next()
    wire.complete(action)
    wire.result(first)
    second = wire.trigger(name, value)
    assert worker.next().task_run_external_id == second
