"""Starts of tasks of a run and of batches: what they carry on either stream, what is left out, and what no message can carry."""

import json
import logging
from collections import deque
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe.wire import dispatcher_pb2 as d
from broadaxe.wire import stream_pb2 as s
from broadaxe_actors import messages as m
from broadaxe_gateway.rpc.convert import batched, starts, workers
from broadaxe_gateway.rpc.limits import GrpcLimits
from tests.gateway.rpc.fakes import STEP, TENANT, make_assignment, new_id, running_gateway

KIBIBYTE = 1024
SMALL = GrpcLimits(max_message_bytes=64 * KIBIBYTE)


def parent(name, output, *, is_direct=True):
    return m.ParentOutput(name, output, is_direct)


def object_of(size):
    return b'{"x":"' + b"x" * (size - 8) + b'"}'


def payload(**changes):
    return json.loads(starts.start_payload(make_assignment(**changes)))


def batch_of(*members, **changes):
    fields = {
        "batch_id": new_id(),
        "key": "default",
        "reason": "size threshold reached (2)",
        "at": 1_750_000_000_000_000,
        "members": members,
    }
    return m.BatchStart(**(fields | changes))


@asynccontextmanager
async def unary_worker(gateway):
    stream = gateway.server_stream(
        "/Dispatcher/ListenV2", d.WorkerListenRequest(worker_id=new_id()), d.AssignedAction
    )
    await stream.initial_metadata()
    yield stream
    stream.cancel()


@asynccontextmanager
async def batched_worker(gateway):
    stream = gateway.both_stream("/broadaxe.v1.Engine/WorkerStream", s.WorkerDown)
    await stream.write(s.WorkerUp(hello=s.Hello(worker_name="w", actions=["flow:step"])))
    assert (await stream.read()).welcome.worker_id
    yield stream
    stream.cancel()


# ---------------------------------------------------------------- content


@pytest.mark.parametrize(
    ("given_input", "delivered"),
    [(b"", {}), (b' {"a":1}', {"a": 1}), (b"[1]", None), (b"5", None), (b"null", None)],
)
def test_only_an_object_is_an_input(given_input, delivered):
    assert payload(input=given_input)["input"] == delivered


def test_lone_task_has_no_parents_and_no_triggers():
    assert payload() == {
        "input": {"n": 1},
        "triggered_by": "manual",
        "parents": {},
        "triggers": {"filter_payload": None},
        "user_data": None,
        "overrides": None,
    }


def test_outputs_are_objects_and_nothing_and_null_are_empty_ones(caplog):
    caplog.set_level(logging.DEBUG, "broadaxe.grpc")
    found = payload(
        parents=(
            parent("a", b'{"v":1}'),
            parent("b.c-d_e", b"", is_direct=False),
            parent("n", b" null"),
            parent("spaced", b'\n\t {"w": [2]} '),
            parent("skipped", b'{"skipped": true}'),
            parent("list", b"[1]"),
            parent("text", b'"{}"'),
        )
    )["parents"]
    assert found == {
        "a": {"v": 1},
        "b.c-d_e": {},
        "n": {},
        "spaced": {"w": [2]},
        "skipped": {"skipped": True},
    }
    assert "task list is no JSON object" in caplog.text
    assert "task text is no JSON object" in caplog.text


@pytest.mark.parametrize(
    ("triggers", "delivered"),
    [
        ("", {"filter_payload": None}),
        (" { } ", {"filter_payload": None}),
        ('{"order:paid":{"amount":7}}', {"filter_payload": None, "order:paid": {"amount": 7}}),
        ('{"filter_payload":{"a":1}}', {"filter_payload": {"a": 1}}),
    ],
)
def test_satisfied_conditions_stand_beside_the_filter_payload(triggers, delivered):
    assert payload(triggers=triggers)["triggers"] == delivered


def test_errors_are_there_for_an_on_failure_task_only():
    errors = (("a", 'ValueError: "no"\n\u00fc'), ("b", ""))
    assert payload(errors=errors)["step_run_errors"] == dict(errors)
    assert "step_run_errors" not in payload(parents=(parent("a", b"{}"),))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
names = st.from_regex(r"[A-Za-z0-9._-]{1,8}", fullmatch=True)


def test_payload_of_a_filter_reaches_workers_of_either_stream():
    alone = make_assignment(filter_payload='{"who":"Anna"}')
    both = alone._replace(triggers='{"k":{"amount":3}}')
    assert json.loads(starts.start_payload(alone))["triggers"] == {"filter_payload": {"who": "Anna"}}
    expected = {"filter_payload": {"who": "Anna"}, "k": {"amount": 3}}
    assert json.loads(starts.start_payload(both))["triggers"] == expected
    assert json.loads(starts.trigger_data(both)) == expected
    assert json.loads(starts.trigger_data(alone)) == {"filter_payload": {"who": "Anna"}}
    assert starts.trigger_data(make_assignment()) == b""
    assert starts.order_bytes(both) > starts.order_bytes(alone) > starts.order_bytes(make_assignment())


# Whatever the outputs, triggers and errors are: the payload is JSON, holds each object output as it is and nothing else, and the
# estimate of its size is none too low.
@given(
    st.dictionaries(names, json_values, max_size=4),
    st.dictionaries(st.text(), json_values, max_size=3),
    st.dictionaries(names, st.text(), max_size=3),
)
def test_payload_holds_what_it_was_given(outputs, triggers, errors):
    start = make_assignment(
        parents=tuple(parent(name, json.dumps(value).encode()) for name, value in outputs.items()),
        triggers=json.dumps(triggers, ensure_ascii=False) if triggers else "",
        errors=tuple(errors.items()),
    )
    text = starts.start_payload(start)
    found = json.loads(text)
    assert found["parents"] == {
        name: value or {} for name, value in outputs.items() if value is None or isinstance(value, dict)
    }
    assert found["triggers"] == {"filter_payload": None} | triggers
    assert found.get("step_run_errors", {}) == errors
    assert len(text.encode()) <= starts.order_bytes(start) * starts.MAX_ESCAPE_BYTES


async def test_batched_worker_gets_outputs_as_they_are():
    start = make_assignment(
        parents=(parent("a", b'{"v":1}'), parent("l", b"[1]"), parent("e", b"")),
        triggers='{"k":{"sleep_duration":"5s"}}',
        errors=(("a", "boom"),),
    )
    async with running_gateway() as gateway, batched_worker(gateway) as stream:
        gateway.engine.push(m.StartTasks(gateway.engine.session_id, (start, make_assignment())))
        first, second = (await stream.read()).assignments
        assert json.loads(first.parents) == {"a": {"v": 1}, "l": [1], "e": None}
        assert json.loads(first.triggers) == {"k": {"sleep_duration": "5s"}}
        assert dict(first.task_run_errors) == {"a": "boom"}
        assert (second.parents, second.triggers, dict(second.task_run_errors)) == (b"", b"", {})


# ---------------------------------------------------------------- size


def test_outputs_count_towards_what_waits():
    plain = make_assignment()
    full = plain._replace(
        parents=(parent("a", object_of(1000)),), triggers="\u00e4" * 50, errors=(("b", "x" * 70),)
    )
    assert starts.order_bytes(full) - starts.order_bytes(plain) >= 1000 + 100 + 70
    assert starts.order_bytes(batch_of(full, plain)) >= starts.order_bytes(full) + starts.order_bytes(plain)


async def test_outputs_of_other_tasks_stay_behind_when_they_do_not_fit():
    start = make_assignment(
        parents=(parent("near", object_of(30_000)), parent("far", object_of(40_000), is_direct=False))
    )
    async with running_gateway(limits=SMALL) as gateway:
        async with unary_worker(gateway) as stream:
            gateway.engine.push(m.StartTasks(gateway.engine.session_id, (start,)))
            assert set(json.loads((await stream.read()).action_payload)["parents"]) == {"near"}
        async with batched_worker(gateway) as stream:
            gateway.engine.push(m.StartTasks(gateway.engine.session_id, (start,)))
            (found,) = (await stream.read()).assignments
            assert set(json.loads(found.parents)) == {"near"}
        assert gateway.engine.of(m.ReportTasks) == []


async def test_start_whose_parents_do_not_fit_fails_naming_them():
    start = make_assignment(
        attempt=3,
        parents=(
            parent("small", object_of(20_000)),
            parent("far", object_of(10_000), is_direct=False),
            parent("large", object_of(50_000)),
        ),
    )
    async with running_gateway(limits=SMALL) as gateway:
        for worker in (unary_worker, batched_worker):
            async with worker(gateway) as stream:
                gateway.engine.push(m.StartTasks(gateway.engine.session_id, (start, make_assignment())))
                while not isinstance(down := await stream.read(), d.AssignedAction) and not down.assignments:
                    pass
        first, second = await gateway.engine.seen(m.ReportTasks, 2)
        for asked in (first, second):
            (report,) = asked.reports
            assert (report.task_run_id, report.attempt) == (start.task_run_id, 3)
            assert report.kind is m.ReportKind.FAILED
            assert report.should_not_retry
            text = report.payload.decode()
            assert "Task step could not be sent" in text
            assert "outputs of its parents: large 50,000, small 20,000)" in text
            assert "input 7, metadata 2" in text
            assert "65,536" in text
            assert "far" not in text


async def test_long_errors_are_cut_rather_than_the_failure_left_untold():
    start = make_assignment(errors=(("a", "\x01" * 30_000), ("b", "short")))
    async with running_gateway(limits=SMALL) as gateway, unary_worker(gateway) as stream:
        gateway.engine.push(m.StartTasks(gateway.engine.session_id, (start,)))
        errors = json.loads((await stream.read()).action_payload)["step_run_errors"]
        assert errors["b"] == "short"
        assert errors["a"].endswith("... (cut: the error has 30,000 bytes)")
        assert gateway.engine.of(m.ReportTasks) == []


def test_many_parents_are_not_all_named():
    start = make_assignment(parents=tuple(parent(f"p{n}", object_of(100 + n)) for n in range(30)))
    (report,) = starts.oversized(start, 9, 8)
    assert b"p29 129, p28 128" in report.payload
    assert b"p9 109" not in report.payload
    assert b"and 10 more" in report.payload


# ---------------------------------------------------------------- batches


async def test_unary_worker_starts_a_batch():
    one, two = make_assignment(), make_assignment(input=b'{"g":"x"}', parents=(parent("a", b"{}"),))
    batch = batch_of(one, two, key="group", at=1_750_000_000_000_001)
    async with running_gateway() as gateway, unary_worker(gateway) as stream:
        gateway.engine.push(m.StartBatches(gateway.engine.session_id, (batch,)))
        action = await stream.read()
        assert action.action_type == d.START_BATCH
        assert (action.tenant_id, action.action_id) == (TENANT, "flow:step")
        assert (action.batchId, action.batchKey) == (batch.batch_id, "group")
        told = action.batchStartPayload
        assert (told.triggerReason, told.expectedSize) == ("size threshold reached (2)", 2)
        assert told.triggerTime.ToMicroseconds() == batch.at
        content = json.loads(action.action_payload)
        assert set(content) == {one.task_run_id, two.task_run_id}
        assert content[two.task_run_id]["workflow_run_id"] == two.run_id
        assert content[two.task_run_id]["payload"]["input"] == {"g": "x"}
        assert content[two.task_run_id]["payload"]["parents"] == {"a": {}}
        unset = ("workflow_run_id", "task_run_external_id", "job_id", "task_id", "task_name", "job_name")
        assert all(getattr(action, field) == "" for field in unset)
        assert (action.retry_count, action.priority) == (0, 0)
        absent = ("additional_metadata", "workflow_id", "workflow_version_id", "batchSize", "batchIndex")
        assert not any(action.HasField(field) for field in absent)


async def test_batched_worker_takes_batches_over_like_assignments():
    batch = batch_of(make_assignment(attempt=2), make_assignment())
    limits = GrpcLimits(worker_backlog=1)
    async with running_gateway(limits=limits) as gateway, batched_worker(gateway) as stream:
        gateway.engine.push(m.StartBatches(gateway.engine.session_id, (batch,)))
        down = await stream.read()
        (found,) = down.batches
        assert (found.batch_id, found.batch_key, found.reason) == (batch.batch_id, batch.key, batch.reason)
        assert [member.task_run_id for member in found.members] == [
            start.task_run_id for start in batch.members
        ]
        assert [member.attempt for member in found.members] == [2, 0]
        assert [step.ref for step in down.steps] == [member.step for member in found.members[:1]]
        assert down.batch == 1
        # Two attempts are held, so one more start fills the worker until it says that it has taken them over.
        gateway.engine.push(m.StartTasks(gateway.engine.session_id, (make_assignment(),)))
        (full,) = await gateway.engine.seen(m.SessionFull, 1)
        assert full.is_full
        assert (await stream.read()).batch == 2
        await stream.write(s.WorkerUp(received_batch=2))
        assert not (await gateway.engine.seen(m.SessionFull, 2))[1].is_full


async def test_batch_that_no_message_can_carry_fails_its_members():
    large = batch_of(*(make_assignment(input=object_of(30_000)) for _ in range(3)))
    small = batch_of(make_assignment())
    async with running_gateway(limits=SMALL) as gateway:
        for worker, kind in ((unary_worker, d.AssignedAction), (batched_worker, s.WorkerDown)):
            async with worker(gateway) as stream:
                gateway.engine.push(m.StartBatches(gateway.engine.session_id, (large, small)))
                down = await stream.read()
                while kind is s.WorkerDown and not down.batches:
                    down = await stream.read()
                ids = [down.batchId] if kind is d.AssignedAction else [one.batch_id for one in down.batches]
                assert ids == [small.batch_id]
        for asked in await gateway.engine.seen(m.ReportTasks, 2):
            assert [report.task_run_id for report in asked.reports] == [
                member.task_run_id for member in large.members
            ]
            assert all(b"batch of 3" in report.payload for report in asked.reports)
            assert all(b"batch_max_size" in report.payload for report in asked.reports)
            assert all(report.should_not_retry for report in asked.reports)


def test_many_small_members_are_measured_and_not_guessed():
    batch = batch_of(*(make_assignment(input=b"{}", metadata="{}") for _ in range(1000)))
    limit = 250_000
    assert starts.order_bytes(batch) > limit
    down, taken, held, oversized = batched.DownWriter(limit).build(deque([batch, make_assignment()]))
    assert (held, oversized) == (1000, [])
    assert taken == starts.order_bytes(batch)
    assert len(down.SerializeToString()) <= limit


def test_step_that_was_named_with_a_start_too_large_stays_named():
    writer = batched.DownWriter(64 * KIBIBYTE)
    down, _, _, oversized = writer.build(deque([make_assignment(input=object_of(70_000))]))
    assert len(oversized) == 1
    assert [step.task_name for step in down.steps] == [STEP.task_name]
    down, *_ = writer.build(deque([make_assignment()]))
    assert [start.step for start in down.assignments] == [1]
    assert not down.steps


def test_items_of_a_named_batch_mean_its_attempts():
    item = d.BatchActionEventItem(task_run_external_id=new_id(), event_payload="{}", retry_count=0)
    event = d.BatchActionEvent(event_type=d.STEP_EVENT_TYPE_COMPLETED, batch_id="b1", items=[item])
    (report,) = workers.batch_reports(event)
    assert (report.attempt, report.batch_id) == (None, "b1")
    event.ClearField("batch_id")
    (report,) = workers.batch_reports(event)
    assert (report.attempt, report.batch_id) == (0, "")


async def test_start_for_a_session_that_has_closed_is_dropped():
    async with running_gateway() as gateway:
        gateway.engine.push(m.StartBatches(new_id(), (batch_of(make_assignment()),)))
        assert gateway.hub.sessions_open == 0
