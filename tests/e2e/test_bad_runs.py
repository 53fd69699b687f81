"""Bad input around graphs, conditions, cancel and replay gets a clear error and changes nothing.

As in `test_bad_input.py`: each test names the mistake, and checks the kind of refusal, that its text names the workflow, the task and the field
or value, and that the record holds what it held before. What fails only when data comes is in `runs/test_conditions.py`.
"""

import json
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from broadaxe import Broadaxe, Context, EmptyModel, ParentCondition, SleepCondition, UserEventCondition, or_
from broadaxe._errors import BroadaxeError, DefinitionError
from broadaxe.wire.v1 import workflows_pb2 as v1
from tests.compat.calls import (
    CANCEL,
    QUEUE,
    SKIP,
    Step,
    all_of,
    base,
    by_event,
    by_parent,
    by_sleep,
    cancel,
    definition,
    refresh,
    replay,
    tasks_filter,
)
from tests.compat.wire import BareWorker, Wire, code_of, unique
from tests.e2e.test_bad_input import refused
from tests.processes import Server, closing, role, server_directory

pytestmark = pytest.mark.timeout(120)
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with server_directory() as directory, closing(one := Server(directory)):
        yield one.start()


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    bare = Wire(server.grpc_address, server.token)
    yield bare
    bare.close()


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broadaxe]:
    for name, value in server.client_environment().items():
        if value is not None:
            monkeypatch.setenv(name, value)
    one = Broadaxe()
    yield one
    one.close()


def refused_steps(server: Server, wire: Wire, *steps: Step, words: tuple[str, ...], **fields: Any) -> None:
    """Registering the graph is refused, and the text names the workflow and each of the words."""
    name = unique("bad")
    refused(server, lambda: wire.put(definition(name, *steps, **fields)), INVALID, name, *words)


# ---- conditions


@pytest.mark.parametrize("action", [QUEUE, SKIP, CANCEL], ids=["wait-for", "skip-if", "cancel-if"])
def test_condition_on_an_unknown_parent(server: Server, wire: Wire, action: int) -> None:
    ghost = by_parent(action, "ghost", "output.v > 1")
    refused_steps(server, wire, Step("top"), Step("low", ["top"], ghost), words=("low", "ghost"))


def test_condition_on_a_task_that_is_no_parent(server: Server, wire: Wire) -> None:
    stranger = by_parent(SKIP, "aside", "output.v > 1")
    refused_steps(
        server, wire, Step("top"), Step("aside"), Step("low", ["top"], stranger), words=("low", "aside")
    )


def test_condition_on_itself(server: Server, wire: Wire) -> None:
    refused_steps(server, wire, Step("low", [], by_parent(SKIP, "low")), words=("low",))


@pytest.mark.parametrize(
    "expression", ["output.v >", "output.v > 'a", "nobody.knows", "output..v", "1 +", "output.v = 1"]
)
def test_expression_on_a_parent_that_does_not_compile(server: Server, wire: Wire, expression: str) -> None:
    broken = by_parent(SKIP, "top", expression)
    refused_steps(server, wire, Step("top"), Step("low", ["top"], broken), words=("low", expression))


@pytest.mark.parametrize("expression", ["input.v >", "input.v in", "surprise()"])
def test_expression_on_an_event_that_does_not_compile(server: Server, wire: Wire, expression: str) -> None:
    broken = by_event(QUEUE, "some:event", expression)
    refused_steps(server, wire, Step("low", [], broken), words=("low", expression))


def test_other_expressions_that_do_not_compile(server: Server, wire: Wire) -> None:
    concurrency = [v1.Concurrency(expression="input.(")]
    refused_steps(server, wire, Step("a", fields={"concurrency": concurrency}), words=("a", "input.("))
    refused_steps(server, wire, Step("a"), concurrency_arr=concurrency, words=("input.(",))
    batch = v1.TaskBatchConfig(batch_max_size=2, batch_group_key="input.(")
    refused_steps(server, wire, Step("a", fields={"batch": batch}), words=("a", "input.("))
    idempotency = v1.IdempotencyConfig(expression="input.(", ttl_ms=1000)
    refused_steps(server, wire, Step("a"), idempotency=idempotency, words=("input.(",))


@pytest.mark.parametrize("duration", ["", "-5s", "5", "1d", "five seconds", "1s -1s"])
def test_sleep_of_no_duration(server: Server, wire: Wire, duration: str) -> None:
    refused_steps(
        server, wire, Step("low", [], by_sleep(QUEUE, duration, key="rest")), words=("low", duration)
    )


def test_condition_without_a_key_or_with_no_action(server: Server, wire: Wire) -> None:
    no_key = by_sleep(QUEUE, "1s")
    no_key.sleep_conditions[0].base.readable_data_key = ""
    refused_steps(server, wire, Step("low", [], no_key), words=("low",))
    refused_steps(server, wire, Step("low", [], by_sleep(0, "1s")), words=("low",))  # CREATE
    no_event = by_event(QUEUE, "some:event")
    no_event.user_event_conditions[0].user_event_key = ""
    refused_steps(server, wire, Step("low", [], no_event), words=("low",))


def test_group_whose_id_is_no_id(server: Server, wire: Wire) -> None:
    wrong = by_sleep(QUEUE, "1s")
    wrong.sleep_conditions[0].base.CopyFrom(base(QUEUE, group="not a uuid"))
    refused_steps(server, wire, Step("low", [], wrong), words=("low", "not a uuid"))


def test_conditions_on_the_on_failure_task(server: Server, wire: Wire) -> None:
    waiting = Step("oops", [], all_of(by_sleep(QUEUE, "1s")))
    name = unique("bad")
    refused(server, lambda: wire.put(definition(name, Step("a"), on_failure=waiting)), INVALID, name, "oops")


# ---- graphs


def test_cycles(server: Server, wire: Wire) -> None:
    refused_steps(server, wire, Step("a", ["c"]), Step("b", ["a"]), Step("c", ["b"]), words=("cycle",))
    refused_steps(server, wire, Step("top"), Step("a", ["top", "a"]), words=("a",))


def test_on_failure_task_with_a_parent_or_the_name_of_another(server: Server, wire: Wire) -> None:
    name = unique("bad")
    with_parent = definition(name, Step("a"), on_failure=Step("oops", ["a"]))
    refused(server, lambda: wire.put(with_parent), INVALID, name, "oops")
    name = unique("bad")
    twice = definition(name, Step("a"), on_failure=Step("a"))
    refused(server, lambda: wire.put(twice), INVALID, name)
    name = unique("bad")
    as_parent = definition(name, Step("a"), Step("b", ["oops"]), on_failure=Step("oops"))
    refused(server, lambda: wire.put(as_parent), INVALID, name, "oops")


def test_parent_named_twice(server: Server, wire: Wire) -> None:
    name = unique("twice")
    request = definition(name, Step("top"), Step("low", ["top", "top"]))
    try:
        wire.put(request)
    except grpc.RpcError as error:
        assert error.code() == INVALID  # noqa: PT017 - refusing it is as good as taking it for one
        return
    worker = BareWorker(wire, f"{name}:top", f"{name}:low")
    try:
        run_id = wire.trigger(name)
        wire.complete(worker.next())
        wire.complete(worker.next())
        stream = wire.runs(run_id)
        assert len(stream.next().results) == 2
        stream.cancel()
    finally:
        worker.close()


# ---- durations and counts


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"timeout": "-1s"}, "-1s"),
        ({"timeout": "99999999999999h"}, "99999999999999h"),
        ({"schedule_timeout": "-5m"}, "-5m"),
        ({"schedule_timeout": "1 m"}, "1 m"),
        ({"retries": -1}, "retries"),
        ({"backoff_factor": 0.5}, "backoff"),
        ({"backoff_factor": -2.0}, "backoff"),
        ({"backoff_factor": 1001.0}, "backoff"),
        ({"backoff_factor": float("nan")}, "backoff"),
        ({"backoff_factor": 2.0, "backoff_max_seconds": 0}, "backoff"),
        ({"backoff_factor": 2.0, "backoff_max_seconds": 86_401}, "backoff"),
        ({"slot_requests": {"default": 0}}, "default"),
        ({"slot_requests": {"default": -1}}, "default"),
        ({"batch": v1.TaskBatchConfig(batch_max_size=0)}, "batch"),
        ({"batch": v1.TaskBatchConfig(batch_max_size=100_001)}, "batch"),
        ({"batch": v1.TaskBatchConfig(batch_max_size=2, batch_max_interval_ms=0)}, "batch"),
        ({"batch": v1.TaskBatchConfig(batch_max_size=2, batch_max_interval_ms=86_400_001)}, "batch"),
        ({"batch": v1.TaskBatchConfig(batch_max_size=2, batch_group_max_runs=0)}, "batch"),
        ({"batch": v1.TaskBatchConfig(batch_max_size=2, batch_group_max_runs=10_001)}, "batch"),
    ],
    ids=lambda value: str(value).replace("\n", " ")[:50],
)
def test_setting_out_of_its_range(server: Server, wire: Wire, fields: dict[str, Any], word: str) -> None:
    refused_steps(server, wire, Step("fine"), Step("wrong", fields=fields), words=("wrong", word))


def test_idempotency_without_an_expression_or_with_no_time(server: Server, wire: Wire) -> None:
    for config in (
        v1.IdempotencyConfig(expression="", ttl_ms=1000),
        v1.IdempotencyConfig(expression="input.key", ttl_ms=0),
        v1.IdempotencyConfig(expression="input.key", ttl_ms=-5),
    ):
        refused_steps(server, wire, Step("a"), idempotency=config, words=("idempotency",))


# ---- cancel, replay, refresh


def test_cancel_and_replay_of_nonsense(server: Server, wire: Wire) -> None:
    some = str(uuid.uuid4())
    for call in (cancel, replay):
        refused(server, lambda call=call: call(wire, "nonsense"), INVALID, "nonsense")  # type: ignore[misc]
        refused(server, lambda call=call: call(wire, some, filter=tasks_filter()), INVALID)  # type: ignore[misc]
        refused(server, lambda call=call: call(wire, filter=v1.TasksFilter()), INVALID, "since")  # type: ignore[misc]
        bad = tasks_filter(statuses=["SLEEPY"])
        refused(server, lambda call=call, bad=bad: call(wire, filter=bad), INVALID, "SLEEPY")  # type: ignore[misc]
        bad = tasks_filter(workflow_ids=["nonsense"])
        refused(server, lambda call=call, bad=bad: call(wire, filter=bad), INVALID, "nonsense")  # type: ignore[misc]


def test_refresh_by_nonsense_leaves_the_deadline(wire: Wire) -> None:
    name = unique("refresh")
    worker = BareWorker(wire, wire.put_workflow(name, timeout="30s"))
    try:
        run_id = wire.trigger(name)
        worker.next()
        before = refresh(wire, run_id, "1s").timeout_at.ToNanoseconds()
        for increment in ("-10s", "forever", "99999999999999h"):
            assert code_of(lambda increment=increment: refresh(wire, run_id, increment))[0] == INVALID  # type: ignore[misc]
        assert refresh(wire, run_id, "1s").timeout_at.ToNanoseconds() - before == pytest.approx(1e9, rel=0.01)
    finally:
        worker.close()


def test_another_tenant_cannot_cancel_replay_or_refresh(server: Server, wire: Wire) -> None:
    name = unique("ours")
    worker = BareWorker(wire, wire.put_workflow(name))
    foreign = Wire(server.grpc_address, server.new_tenant(unique("foreign")))
    try:
        run_id = wire.trigger(name)
        action = worker.next()
        cancel(foreign, run_id)
        assert code_of(lambda: refresh(foreign, run_id, "1s"))[0] == grpc.StatusCode.NOT_FOUND
        assert not wire.details(run_id).done
        wire.complete(action, '{"v": 1}')
        assert json.loads(wire.result(run_id).output) == {"v": 1}
        assert replay(foreign, run_id) == []
        assert wire.details(run_id).status == v1.COMPLETED
    finally:
        foreign.close()
        worker.close()


# ---- through the SDKs


def test_two_on_failure_tasks(client: Broadaxe) -> None:
    name = unique("twice")
    workflow = client.workflow(name=name)

    @workflow.on_failure_task()
    def first(input: EmptyModel, ctx: Context) -> None: ...  # noqa: A002

    with pytest.raises(DefinitionError, match=name):

        @workflow.on_failure_task()
        def second(input: EmptyModel, ctx: Context) -> None: ...  # noqa: A002


def test_parent_of_another_workflow(client: Broadaxe) -> None:
    one, other = client.workflow(name=unique("one")), client.workflow(name=unique("other"))

    @other.task()
    def stranger(input: EmptyModel, ctx: Context) -> None: ...  # noqa: A002

    with pytest.raises(DefinitionError, match="stranger"):

        @one.task(parents=[stranger])
        def low(input: EmptyModel, ctx: Context) -> None: ...  # noqa: A002


def test_condition_on_a_task_that_is_no_parent_through_the_sdk(client: Broadaxe) -> None:
    workflow = client.workflow(name=unique("stranger"))

    @workflow.task()
    def top(input: EmptyModel, ctx: Context) -> None: ...  # noqa: A002

    with pytest.raises(BroadaxeError, match="top"):

        @workflow.task(skip_if=[ParentCondition(parent=top, expression="output.v > 1")])
        def low(input: EmptyModel, ctx: Context) -> None: ...  # noqa: A002


@pytest.mark.parametrize(
    "settings",
    [
        {"retries": -1},
        {"execution_timeout": timedelta(seconds=-1)},
        {"schedule_timeout": "-5s"},
        {"execution_timeout": "soon"},
        {"backoff_factor": 0.5},
        {"backoff_factor": 2.0, "backoff_max_seconds": -1},
        {"slot_cost": 0},
    ],
    ids=str,
)
def test_setting_out_of_its_range_through_the_sdk(client: Broadaxe, settings: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match=r"odd_setting"):

        @client.task(name="odd_setting", **settings)
        def odd_setting(input: EmptyModel, ctx: Context) -> None: ...  # noqa: A002


def test_condition_that_is_none(client: Broadaxe) -> None:
    with pytest.raises(DefinitionError):
        or_()
    workflow = client.workflow(name=unique("sleepless"))
    for wrong in (
        "1s",
        SleepCondition(timedelta(seconds=-1)),
        SleepCondition("soon"),
        UserEventCondition(""),
    ):
        with pytest.raises(DefinitionError):

            @workflow.task(name=unique("low"), wait_for=[wrong])  # type: ignore[list-item]
            def low(input: EmptyModel, ctx: Context) -> None: ...  # noqa: A002


@pytest.mark.parametrize("sdk", ["broadaxe", "hatchet_sdk"])
def test_expression_that_does_not_compile_stops_the_worker_and_says_why(
    server: Server, wire: Wire, tmp_path: Path, sdk: str
) -> None:
    worker = role(server.client_environment(), "flow_worker", sdk, "wrong", "5", directory=tmp_path)
    with worker:
        worker.wait_for_line(r"output\.value >", timeout=40)
        text = worker.output()
    assert "wrong-expression" in text
    assert "chosen" in text
    refused(server, lambda: wire.trigger("wrong-expression"), INVALID, "wrong-expression")
