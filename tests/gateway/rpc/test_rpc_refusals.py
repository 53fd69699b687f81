"""Bad input over real gRPC: the code, the reason in words, and nothing reaches the engine."""

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from broadaxe.wire import dispatcher_pb2 as d
from broadaxe.wire import events_pb2 as e
from broadaxe.wire import workflows_pb2 as w
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import condition_pb2 as c
from broadaxe.wire.v1.shared import trigger_pb2 as t
from broadaxe_actors import messages as m
from broadaxe_actors.errors import Code
from broadaxe_gateway.rpc.limits import GrpcLimits
from broadaxe_gateway.rpc.server import MISSING
from tests.gateway.rpc.fakes import new_id, refusal, running_gateway

INVALID = grpc.StatusCode.INVALID_ARGUMENT
TRIGGER = "/WorkflowService/TriggerWorkflow"
BULK = "/WorkflowService/BulkTriggerWorkflow"
PUT = "/v1.AdminService/PutWorkflow"
PUT_LIMIT = "/WorkflowService/PutRateLimit"
PAUSE_LIMIT = "/WorkflowService/PauseRateLimit"
REGISTER = "/Dispatcher/Register"
STEP_EVENT = "/Dispatcher/SendStepActionEvent"


def trigger(**fields):
    return t.TriggerWorkflowRequest(**({"name": "flow", "input": "{}"} | fields))


def workflow(**fields):
    task = v1.CreateTaskOpts(readable_id="a", action="flow:a")
    return v1.CreateWorkflowVersionRequest(**({"name": "flow", "tasks": [task]} | fields))


def task(**fields):
    return workflow(tasks=[v1.CreateTaskOpts(**({"readable_id": "a", "action": "flow:a"} | fields))])


def register(**fields):
    return d.WorkerRegisterRequest(**({"worker_name": "w", "actions": ["f:a"]} | fields))


def condition(**fields):
    base = c.BaseMatchCondition(**({"readable_data_key": "k", "action": c.QUEUE} | fields))
    return v1.CreateTaskOpts(
        readable_id="a",
        action="flow:a",
        conditions=c.TaskConditions(sleep_conditions=[c.SleepMatchCondition(base=base, sleep_for="1s")]),
    )


def condition_of(**lists):
    base = c.BaseMatchCondition(readable_data_key="k", action=c.QUEUE)
    kinds = {"sleep_conditions": c.SleepMatchCondition, "user_event_conditions": c.UserEventMatchCondition}
    filled = {
        name: [kinds[name](base=base, **fields) for fields in conditions]
        for name, conditions in lists.items()
    }
    return v1.CreateTaskOpts(readable_id="a", action="flow:a", conditions=c.TaskConditions(**filled))


LOG = {"task_run_external_id": new_id(), "message": "hello"}

BAD = {
    "trigger without a name": (TRIGGER, trigger(name=""), "names no workflow"),
    "input that is no JSON": (TRIGGER, trigger(input="{"), "input of workflow 'flow' is not valid JSON"),
    "input with NaN": (TRIGGER, trigger(input='{"a":NaN}'), "NaN is not a JSON value"),
    "input with a null character": (TRIGGER, trigger(input='{"a":"\\u0000"}'), "null character"),
    "input nested without end": (TRIGGER, trigger(input="[" * 100_000), "nested too deeply"),
    "large input that is no JSON": (TRIGGER, trigger(input='{"a":"' + "x" * 300_000), "not valid JSON"),
    "metadata that is no JSON": (TRIGGER, trigger(additional_metadata="x"), "additional_metadata"),
    "metadata that is no object": (TRIGGER, trigger(additional_metadata="[1]"), "not a JSON object: '[1]'"),
    "metadata with half a character": (
        TRIGGER,
        trigger(additional_metadata='{"a":"\\ud800"}'),
        "surrogate pair",
    ),
    "metadata with a huge number": (TRIGGER, trigger(additional_metadata='{"a":1e999}'), "out of range"),
    "priority 0": (TRIGGER, trigger(priority=0), "priority is 0, expected 1 (low) to 3 (high)"),
    "priority 4": (TRIGGER, trigger(priority=4), "priority is 4"),
    "empty parent": (TRIGGER, trigger(parent_task_run_external_id=""), "parent_task_run_external_id"),
    "desired worker that is no id": (TRIGGER, trigger(desired_worker_id="x"), "desired_worker_id"),
    "1,001 runs": (
        BULK,
        w.BulkTriggerWorkflowRequest(workflows=[trigger()] * 1001),
        "triggers 1,001 runs; one call may trigger at most 1,000: split",
    ),
    "one bad entry in bulk": (
        BULK,
        w.BulkTriggerWorkflowRequest(workflows=[trigger(), trigger(input="x")]),
        "entry 1 of 2: input",
    ),
    "admin trigger with bad input": (
        "/v1.AdminService/TriggerWorkflowRun",
        v1.TriggerWorkflowRunRequest(workflow_name="f", input=b"\xff"),
        "not UTF-8",
    ),
    "details of no id": (
        "/v1.AdminService/GetRunDetails",
        v1.GetRunDetailsRequest(external_id="1"),
        "external_id is not a UUID: '1'",
    ),
    "workflow name": (PUT, workflow(name="a b"), "workflow name 'a b' is not valid"),
    "no tasks": (PUT, workflow(tasks=[]), "has no tasks"),
    "task name": (PUT, task(readable_id=""), "task name '' is not valid"),
    "action": (PUT, task(action="a"), "expected 'workflow:task'"),
    "timeout": (PUT, task(timeout="1d"), "duration '1d' is not valid"),
    "schedule timeout": (PUT, task(schedule_timeout="-1s"), "schedule_timeout"),
    "retries": (PUT, task(retries=-1), "task 'a': retries is -1"),
    "retries without end": (PUT, task(retries=10_001), "retries is 10,001, expected 0 to 10,000"),
    "timeout of ages": (
        PUT,
        task(timeout="87601h"),
        "execution_timeout is 87601h, expected at most ten years",
    ),
    "timeout beyond numbers": (PUT, task(schedule_timeout="9" * 400 + "h"), "schedule_timeout"),
    "sleep of ages": (
        PUT,
        workflow(tasks=[condition_of(sleep_conditions=[{"sleep_for": "9999999999h"}])]),
        "sleep condition is 9999999999h",
    ),
    "events since no time": (
        PUT,
        workflow(
            tasks=[
                condition_of(
                    user_event_conditions=[
                        {"user_event_key": "e", "consider_events_since": Timestamp(seconds=2**60)}
                    ]
                )
            ]
        ),
        "consider_events_since is no time",
    ),
    "slots of none": (PUT, task(slot_requests={"default": 0}), "slot request 'default' is 0"),
    "slots without end": (PUT, task(slot_requests={"default": 2**31 - 1}), "expected 1 to 1,000,000"),
    "concurrency of none": (
        PUT,
        task(concurrency=[v1.Concurrency(expression="'a'", max_runs=0)]),
        "concurrency max_runs is 0",
    ),
    "negative units": (
        PUT,
        task(rate_limits=[v1.CreateTaskRateLimit(key="k", units=-1)]),
        "units of rate limit 'k' is -1",
    ),
    "idempotency of ages": (
        PUT,
        workflow(idempotency=v1.IdempotencyConfig(expression="input.id", ttl_ms=2**62)),
        "idempotency ttl_ms is 4,611,686,018,427,387,904",
    ),
    "too many tasks": (
        PUT,
        workflow(tasks=[v1.CreateTaskOpts(readable_id="a", action="f:a")] * 10_001),
        "has 10,001 tasks",
    ),
    "backoff factor": (PUT, task(backoff_factor=0.5), "backoff_factor is 0.5"),
    "slots of a task": (PUT, task(slot_requests={"default": 0}), "slot request 'default' is 0"),
    "unknown parent": (PUT, task(parents=["b"]), "parent 'b' is not a task"),
    "itself as parent": (PUT, task(parents=["a"]), "in a cycle"),
    "same name twice": (
        PUT,
        workflow(tasks=[v1.CreateTaskOpts(readable_id="a", action="f:a")] * 2),
        "two tasks named 'a'",
    ),
    "default priority": (PUT, workflow(default_priority=9), "default_priority is 9"),
    "sticky": (PUT, workflow(sticky=7), "sticky 7 is not known"),
    "cron words": (PUT, workflow(cron_triggers=["@reboot"]), "cron expression '@reboot'"),
    "cron fields": (PUT, workflow(cron_triggers=["61 * * * *"]), "cron expression"),
    "cron input": (PUT, workflow(cron_input="{"), "cron_input is not valid JSON"),
    "concurrency without expression": (PUT, workflow(concurrency_arr=[v1.Concurrency()]), "no expression"),
    "rejected strategy": (
        PUT,
        workflow(concurrency_arr=[v1.Concurrency(expression="'a'", limit_strategy=1)]),
        "DROP_NEWEST is not supported",
    ),
    "unknown strategy": (
        PUT,
        workflow(concurrency_arr=[v1.Concurrency(expression="'a'", limit_strategy=9)]),
        "limit_strategy 9 is not known",
    ),
    "rate limit without key": (PUT, task(rate_limits=[v1.CreateTaskRateLimit(units=1)]), "no key"),
    "rate limit without units": (PUT, task(rate_limits=[v1.CreateTaskRateLimit(key="k")]), "units"),
    "limit without key": (PUT_LIMIT, w.PutRateLimitRequest(limit=1), "is empty: give one"),
    "limit of a long key": (PUT_LIMIT, w.PutRateLimitRequest(key="k" * 10_001, limit=1), "10,001 characters"),
    "limit with a null": (PUT_LIMIT, w.PutRateLimitRequest(key="a\0", limit=1), "null character"),
    "negative limit": (
        PUT_LIMIT,
        w.PutRateLimitRequest(key="k", limit=-1),
        "limit is -1, expected 0 or more",
    ),
    "limit per nothing": (
        PUT_LIMIT,
        w.PutRateLimitRequest(key="k", limit=1, duration=9),
        "duration 9 is not known, expected SECOND (0), MINUTE (1)",
    ),
    "pause without key": (
        PAUSE_LIMIT,
        w.PauseRateLimitRequest(paused_until=Timestamp(seconds=1)),
        "is empty",
    ),
    "pause for ever": (PAUSE_LIMIT, w.PauseRateLimitRequest(key="k"), "paused_until is missing"),
    "pause until no time": (
        PAUSE_LIMIT,
        w.PauseRateLimitRequest(key="k", paused_until=Timestamp(seconds=10**15)),
        "no time between the years 1 and 9999",
    ),
    "condition to create": (PUT, workflow(tasks=[condition(action=c.CREATE)]), "condition action"),
    "condition without key": (PUT, workflow(tasks=[condition(readable_data_key="")]), "readable_data_key"),
    "condition group": (PUT, workflow(tasks=[condition(or_group_id="g")]), "or_group_id is not a UUID"),
    "batch of none": (PUT, task(batch=v1.TaskBatchConfig(batch_max_size=0)), "batch max_size is 0"),
    "idempotency": (PUT, workflow(idempotency=v1.IdempotencyConfig(ttl_ms=1)), "no expression"),
    "null in a description": (PUT, workflow(description="a\0b"), "null character"),
    "worker name": (REGISTER, register(worker_name="a/b"), "worker_name 'a/b'"),
    "worker action": (REGISTER, register(actions=["x"]), "action 'x'"),
    "service": (REGISTER, register(services=["a b"]), "service 'a b'"),
    "slots twice": (REGISTER, register(slots=1, slot_config={"default": 1}), "both given"),
    "no slots": (REGISTER, register(slots=0), "slots is 0"),
    "negative slots": (REGISTER, register(slot_config={"default": -1}), "has -1 slots"),
    "heartbeat of no id": ("/Dispatcher/Heartbeat", d.HeartbeatRequest(worker_id="x"), "worker_id"),
    "unsubscribe of no id": ("/Dispatcher/Unsubscribe", d.WorkerUnsubscribeRequest(), "worker_id"),
    "labels of no id": ("/Dispatcher/UpsertWorkerLabels", d.UpsertWorkerLabelsRequest(), "worker_id"),
    "step event of no id": (STEP_EVENT, d.StepActionEvent(event_type=1), "task_run_external_id"),
    "step event of no type": (
        STEP_EVENT,
        d.StepActionEvent(task_run_external_id=new_id()),
        "event_type 0 is not valid",
    ),
    "batch event of one bad id": (
        "/Dispatcher/SendBatchActionEvent",
        d.BatchActionEvent(event_type=2, items=[d.BatchActionEventItem(task_run_external_id="x")]),
        "task_run_external_id",
    ),
    "event without key": ("/EventsService/Push", e.PushEventRequest(payload="{}"), "no key"),
    "event payload": ("/EventsService/Push", e.PushEventRequest(key="k", payload="{"), "payload of event"),
    "event priority": ("/EventsService/Push", e.PushEventRequest(key="k", priority=5), "priority is 5"),
    "no events": ("/EventsService/BulkPush", e.BulkPushEventRequest(), "no events"),
    "1,001 events": (
        "/EventsService/BulkPush",
        e.BulkPushEventRequest(events=[e.PushEventRequest(key="k")] * 1001),
        "pushes 1,001 events; one call may push at most 1,000",
    ),
    "empty log": ("/EventsService/PutLog", e.PutLogRequest(**LOG | {"message": ""}), "0 characters"),
    "long log": ("/EventsService/PutLog", e.PutLogRequest(**LOG | {"message": "x" * 10_001}), "10,001"),
    "log level": ("/EventsService/PutLog", e.PutLogRequest(**LOG, level="LOUD"), "level 'LOUD'"),
    "log metadata": ("/EventsService/PutLog", e.PutLogRequest(**LOG, metadata="[]"), "not a JSON object"),
    "chunk of no id": ("/EventsService/PutStreamEvent", e.PutStreamEventRequest(), "task_run_external_id"),
}


@pytest.fixture
async def gateway():
    async with running_gateway() as running:
        yield running


async def refused(call, request):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(request)
    return error.value.code(), error.value.details()


async def test_bad_input_is_refused_in_words_and_reaches_nobody(gateway):
    problems = []
    for claim, (path, request, text) in BAD.items():
        code, details = await refused(gateway.unary(path, d.GetVersionResponse), request)
        if code is not INVALID or text not in details:
            problems.append((claim, code, details))
    assert problems == []
    assert gateway.engine.messages == []


async def test_message_beyond_the_limit_is_refused_by_size():
    async with running_gateway(limits=GrpcLimits(max_message_bytes=64 * 1024)) as gateway:
        code, details = await refused(
            gateway.unary(TRIGGER, w.TriggerWorkflowResponse), trigger(input='"' + "x" * 70_000 + '"')
        )
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "65536" in details


@pytest.mark.parametrize("path", MISSING)
async def test_method_that_is_missing_says_its_name_and_what_is_missing(gateway, path):
    code, details = await refused(gateway.unary(path, d.GetVersionResponse), d.GetVersionRequest())
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert details == f"{path} is not implemented: {MISSING[path]}"


async def test_unknown_method_says_its_name(gateway):
    code, details = await refused(
        gateway.unary("/Dispatcher/Nonsense", d.GetVersionResponse), d.GetVersionRequest()
    )
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert "/Dispatcher/Nonsense" in details


async def test_refusal_of_the_engine_keeps_code_and_words(gateway):
    gateway.engine.answers[m.TriggerRuns] = lambda q: refusal(
        Code.INVALID_ARGUMENT, "workflow 'flow' is not registered"
    )
    assert await refused(gateway.unary(TRIGGER, w.TriggerWorkflowResponse), trigger()) == (
        INVALID,
        "workflow 'flow' is not registered",
    )


async def test_error_of_ours_is_internal_without_details(gateway, caplog):
    gateway.engine.answers[m.TriggerRuns] = lambda q: ("one", "too many")
    code, details = await refused(gateway.unary(TRIGGER, w.TriggerWorkflowResponse), trigger())
    assert code is grpc.StatusCode.INTERNAL
    assert details == "internal error: the server's log tells more"
    assert "too many values" in caplog.text


@pytest.mark.parametrize("scheme", ["bearer", "Bearer", "BEARER"])
async def test_scheme_of_the_token_is_compared_without_case(gateway, scheme):
    call = gateway.channel.unary_unary("/Dispatcher/GetVersion")
    assert await call(b"", metadata=(("authorization", f"{scheme} good"),), timeout=5)


@pytest.mark.parametrize("header", ["good", "basic good", "bearer", "bearer bad", ""])
async def test_every_bad_token_gets_the_same_words(gateway, header):
    call = gateway.channel.unary_unary("/v1.V1Dispatcher/RegisterDurableEvent")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(b"", metadata=(("authorization", header),), timeout=5)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error.value.details() == (
        "the API token is missing, malformed, expired, revoked or not of this server"
    )


async def test_calls_beyond_the_rate_are_refused_ten_times_later_for_workers():
    async with running_gateway(limits=GrpcLimits(requests_per_second=2)) as gateway:
        codes = []
        for _ in range(4):
            try:
                await gateway.unary(TRIGGER, w.TriggerWorkflowResponse)(trigger())
                codes.append(grpc.StatusCode.OK)
            except grpc.aio.AioRpcError as error:
                codes.append(error.code())
        assert codes[:2] == [grpc.StatusCode.OK] * 2
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
        for _ in range(10):
            await gateway.unary("/Dispatcher/GetVersion", d.GetVersionResponse)(d.GetVersionRequest())


async def test_unknown_task_of_a_report_is_an_invalid_argument(gateway):
    gateway.engine.answers[m.ReportTasks] = lambda q: m.ReportsTaken((False,))
    code, details = await refused(
        gateway.unary(STEP_EVENT, d.ActionEventResponse),
        d.StepActionEvent(task_run_external_id=new_id(), event_type=d.STEP_EVENT_TYPE_COMPLETED),
    )
    assert code is INVALID
    assert "is not known" in details


@pytest.mark.parametrize("event_type", [d.STEP_EVENT_TYPE_UNKNOWN, 99])
async def test_unknown_kind_of_report_is_an_invalid_argument(gateway, event_type):
    for method, event in (
        (STEP_EVENT, d.StepActionEvent(task_run_external_id=new_id(), event_type=event_type)),
        ("/Dispatcher/SendBatchActionEvent", d.BatchActionEvent(event_type=event_type)),
    ):
        code, details = await refused(gateway.unary(method, d.ActionEventResponse), event)
        assert code is INVALID
        assert f"event_type {event_type} is not valid" in details


@pytest.mark.parametrize(
    ("output", "text"),
    [("{", b"invalid json in field taskOutput"), ('"\\u0000"', b"invalid null character")],
)
async def test_output_that_is_no_json_fails_the_attempt(gateway, output, text):
    await gateway.unary(STEP_EVENT, d.ActionEventResponse)(
        d.StepActionEvent(
            task_run_external_id=new_id(),
            event_type=d.STEP_EVENT_TYPE_COMPLETED,
            event_payload=output,
            retry_count=2,
        )
    )
    (report,) = gateway.engine.of(m.ReportTasks)[0].reports
    assert report.kind is m.ReportKind.FAILED
    assert report.attempt == 2
    assert not report.should_not_retry
    assert text in report.payload


async def test_gzip_is_taken(gateway):
    call = gateway.channel.unary_unary(
        TRIGGER,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=w.TriggerWorkflowResponse.FromString,
    )
    request = trigger(input='{"a":"' + "x" * 10_000 + '"}')
    answer = await call(
        request, metadata=(("authorization", "bearer good"),), compression=grpc.Compression.Gzip, timeout=5
    )
    assert answer.workflow_run_id
