"""What is converted without a server: defaults, traces, payloads, sizes."""

import json
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadaxe.wire import dispatcher_pb2 as d
from broadaxe.wire import stream_pb2 as s
from broadaxe.wire.v1 import workflows_pb2 as v1
from broadaxe.wire.v1.shared import condition_pb2 as c
from broadaxe.wire.v1.shared import trigger_pb2 as t
from broadaxe_actors import definitions
from broadaxe_actors import messages as m
from broadaxe_actors.errors import Refused
from broadaxe_gateway.rpc.convert import batched, checks, runs, workers
from broadaxe_gateway.rpc.convert.definitions import workflow_definition
from broadaxe_gateway.rpc.limits import RateLimiter
from broadaxe_storage.records import TaskRunState
from tests.gateway.rpc.fakes import TENANT, make_assignment, new_id

RUN = "01a20172-e2d4-77c2-8907-dd7d617cad63"
PARENT = "01a20172-0000-77c2-8907-dd7d617cad63"
VALID = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


# ---------------------------------------------------------------- definitions


def definition(**fields):
    task = v1.CreateTaskOpts(readable_id="a", action="Flow:A")
    return workflow_definition(
        v1.CreateWorkflowVersionRequest(**({"name": "Flow", "tasks": [task]} | fields))
    )


def test_defaults_are_filled_in():
    (task,) = definition().tasks
    assert task.action == "flow:a"
    assert (task.execution_timeout, task.schedule_timeout) == ("5m", "5m")
    assert task.slot_requests == {"default": 1}
    assert (task.backoff_factor, task.backoff_max_seconds) == (None, None)


def test_durable_task_takes_a_durable_slot():
    task = v1.CreateTaskOpts(readable_id="a", action="f:a", is_durable=True)
    assert definition(tasks=[task]).tasks[0].slot_requests == {"durable": 1}


def test_backoff_keeps_its_decimals_and_gets_its_cap():
    task = v1.CreateTaskOpts(readable_id="a", action="f:a", backoff_factor=1.1)
    found = definition(tasks=[task]).tasks[0]
    assert (found.backoff_factor, found.backoff_max_seconds) == (1.1, 86400)


def test_sticky_zero_is_soft_when_it_is_there():
    assert definition().sticky is None
    assert definition(sticky=v1.SOFT).sticky == "SOFT"


def test_both_concurrency_fields_count():
    found = definition(
        concurrency=v1.Concurrency(expression="'a'"),
        concurrency_arr=[v1.Concurrency(expression="'b'", max_runs=3, limit_strategy=3)],
    ).concurrency
    assert [entry["expression"] for entry in found] == ["'a'", "'b'"]
    assert (found[0]["max_runs"], found[0]["limit_strategy"]) == (1, "CANCEL_IN_PROGRESS")
    assert found[1]["limit_strategy"] == "GROUP_ROUND_ROBIN"


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "CANCEL_IN_PROGRESS"),
        (3, "GROUP_ROUND_ROBIN"),
        (4, "CANCEL_NEWEST"),
        (5, "CANCEL_QUEUED_EXCEPT_NEWEST"),
        (6, "CANCEL_QUEUED_EXCEPT_OLDEST"),
    ],
)
@pytest.mark.parametrize("level", ["workflow", "task"])
def test_concurrency_is_carried_at_both_levels(level, number, name):
    entry = v1.Concurrency(expression="input.k", max_runs=7, limit_strategy=number)
    if level == "workflow":
        (found,) = definition(concurrency_arr=[entry]).concurrency
    else:
        task = v1.CreateTaskOpts(readable_id="a", action="f:a", concurrency=[entry])
        (found,) = definition(tasks=[task]).tasks[0].concurrency
    assert found == {"expression": "input.k", "max_runs": 7, "limit_strategy": name}


@pytest.mark.parametrize("number", [1, 2])
def test_deprecated_strategies_are_refused_by_name(number):
    entry = v1.Concurrency(expression="input.k", limit_strategy=number)
    with pytest.raises(Refused) as refusal:
        definition(concurrency_arr=[entry])
    assert v1.ConcurrencyLimitStrategy.Name(number) in str(refusal.value)
    assert "GROUP_ROUND_ROBIN" in str(refusal.value)


def test_limit_by_expression_and_shared_name_are_carried():
    entry = v1.Concurrency(
        expression="input.k",
        max_runs=1,
        max_runs_expression="input.n",
        name="shared",
        is_tenant_scoped=True,
        limit_strategy=v1.GROUP_ROUND_ROBIN,
    )
    assert definition(concurrency_arr=[entry]).concurrency[0] == {
        "expression": "input.k",
        "max_runs": 1,
        "limit_strategy": "GROUP_ROUND_ROBIN",
        "name": "shared",
        "is_tenant_scoped": True,
        "max_runs_expression": "input.n",
    }


def test_shared_group_needs_a_name():
    with pytest.raises(Refused, match=r"'input\.k' is tenant-scoped and has no name"):
        definition(concurrency_arr=[v1.Concurrency(expression="input.k", is_tenant_scoped=True)])


def test_number_as_a_limit_over_all_arrives_as_a_constant_key():
    """As Python clients send `concurrency=2`."""
    entry = v1.Concurrency(expression="'constant'", max_runs=2, limit_strategy=v1.GROUP_ROUND_ROBIN)
    (found,) = definition(concurrency_arr=[entry]).concurrency
    assert (found["expression"], found["max_runs"]) == ("'constant'", 2)


def limited(**fields):
    task = v1.CreateTaskOpts(
        readable_id="a", action="f:a", rate_limits=[v1.CreateTaskRateLimit(key="api", **fields)]
    )
    return definition(tasks=[task]).tasks[0].rate_limits[0]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"units": 2}, {"units": 2, "duration": "MINUTE"}),
        ({"units": 0, "duration": 0}, {"units": 0, "duration": "SECOND"}),
        (
            {"units": 1, "limit_values_expr": "-1", "duration": 6},
            {"units": 1, "limit_values_expr": "-1", "duration": "YEAR"},
        ),
        (
            {"key_expr": "input.k", "units_expr": "input.n", "limit_values_expr": "10"},
            {
                "key_expr": "input.k",
                "units_expr": "input.n",
                "limit_values_expr": "10",
                "duration": "MINUTE",
            },
        ),
        ({"units": 1, "key_expr": "", "units_expr": ""}, {"units": 1, "duration": "MINUTE"}),
    ],
    ids=["static", "zero", "hatchet-static", "dynamic", "empty-is-none"],
)
def test_rate_limits_are_carried(fields, expected):
    assert limited(**fields) == {"key": "api", **expected}


def test_rate_limit_needs_units_that_are_not_empty():
    with pytest.raises(Refused, match="neither units nor units_expr"):
        limited(units_expr="")


LABELS = [
    (t.DesiredWorkerLabels(str_value="a"), ("a", "EQUAL", 100, False)),
    (t.DesiredWorkerLabels(str_value=""), ("", "EQUAL", 100, False)),
    (t.DesiredWorkerLabels(int_value=0, comparator=1), (0, "NOT_EQUAL", 100, False)),
    (t.DesiredWorkerLabels(int_value=5, comparator=2, required=True), (5, "GREATER_THAN", 100, True)),
    (t.DesiredWorkerLabels(int_value=5, comparator=3, weight=0), (5, "GREATER_THAN_OR_EQUAL", 0, False)),
    (t.DesiredWorkerLabels(int_value=5, comparator=4, weight=-7), (5, "LESS_THAN", -7, False)),
    (t.DesiredWorkerLabels(int_value=-5, comparator=5), (-5, "LESS_THAN_OR_EQUAL", 100, False)),
]


@pytest.mark.parametrize(("label", "expected"), LABELS)
def test_desired_labels_have_one_shape_at_definition_and_trigger(label, expected):
    shape = dict(zip(("value", "comparator", "weight", "required"), expected, strict=True))
    task = v1.CreateTaskOpts(readable_id="a", action="f:a", worker_labels={"gpu": label})
    assert definition(tasks=[task]).tasks[0].worker_labels == {"gpu": shape}
    request = t.TriggerWorkflowRequest(name="f", desired_worker_labels={"gpu": label})
    assert json.loads(runs.new_run(request, RUN).desired_labels) == {"gpu": shape}
    admin = v1.TriggerWorkflowRunRequest(workflow_name="f", desired_worker_labels={"gpu": label})
    assert json.loads(runs.new_admin_run(admin, RUN).desired_labels) == {"gpu": shape}


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (t.DesiredWorkerLabels(required=True), "has no value"),
        (t.DesiredWorkerLabels(str_value="a", int_value=1), "both a text and a number"),
        (t.DesiredWorkerLabels(int_value=1, comparator=6), "comparator 6 is not known"),
        (t.DesiredWorkerLabels(str_value="a", comparator=2), "GREATER_THAN needs a number"),
        (t.DesiredWorkerLabels(str_value="a", comparator=5), "LESS_THAN_OR_EQUAL needs a number"),
    ],
)
def test_label_that_no_worker_can_satisfy_is_refused_by_its_key(label, words):
    request = t.TriggerWorkflowRequest(name="f", desired_worker_labels={"gpu": label})
    with pytest.raises(Refused, match=words) as refusal:
        runs.new_run(request, RUN)
    assert "'gpu'" in str(refusal.value)
    assert "'f'" in str(refusal.value)


def test_trigger_without_labels_has_none():
    assert runs.new_run(t.TriggerWorkflowRequest(name="f"), RUN).desired_labels is None


@pytest.mark.parametrize("priority", [None, 1, 2, 3])
def test_priority_is_carried_when_it_is_given(priority):
    request = t.TriggerWorkflowRequest(name="f", priority=priority)
    assert runs.new_run(request, RUN).priority == priority
    assert definition(default_priority=priority).default_priority == priority


@pytest.mark.parametrize("sticky", [None, "SOFT", "HARD"])
def test_sticky_is_carried_by_name(sticky):
    number = None if sticky is None else v1.StickyStrategy.Value(sticky)
    assert definition(sticky=number).sticky == sticky


def test_random_groups_of_conditions_do_not_make_versions():
    def with_groups():
        sleep = c.SleepMatchCondition(
            base=c.BaseMatchCondition(readable_data_key="k", action=c.QUEUE), sleep_for="10s"
        )
        parent = c.ParentOverrideMatchCondition(
            base=c.BaseMatchCondition(
                readable_data_key=new_id(), action=c.SKIP, or_group_id=new_id(), expression="true"
            ),
            parent_readable_id="a",
        )
        child = v1.CreateTaskOpts(
            readable_id="b",
            action="f:b",
            parents=["a"],
            conditions=c.TaskConditions(sleep_conditions=[sleep], parent_override_conditions=[parent]),
        )
        return definition(tasks=[v1.CreateTaskOpts(readable_id="a", action="f:a"), child])

    first, second = with_groups(), with_groups()
    assert first != second
    assert definitions.checksum(first) == definitions.checksum(second)
    assert definitions.from_json(definitions.to_json(first)) == first


def test_condition_on_an_event_keeps_scope_and_start_if_they_are_given():
    base = c.BaseMatchCondition(
        readable_data_key="paid", action=c.QUEUE, or_group_id=RUN, expression="input.a > 1"
    )
    plain = c.UserEventMatchCondition(base=base, user_event_key="order:paid")
    full = c.UserEventMatchCondition(base=base, user_event_key="order:paid", event_scope="eu")
    full.consider_events_since.FromMicroseconds(1_750_000_000_000_001)
    task = v1.CreateTaskOpts(
        readable_id="a", action="f:a", conditions=c.TaskConditions(user_event_conditions=[plain, full])
    )
    first, second = definition(tasks=[task]).tasks[0].conditions
    assert first == {
        "kind": "event",
        "action": "QUEUE",
        "or_group_id": RUN,
        "expression": "input.a > 1",
        "readable_data_key": "paid",
        "event_key": "order:paid",
    }
    assert second == first | {"event_scope": "eu", "consider_events_since": 1_750_000_000_000_001}


def test_parent_that_is_named_twice_is_one():
    child = v1.CreateTaskOpts(readable_id="b", action="f:b", parents=["a", "a"])
    tasks = [v1.CreateTaskOpts(readable_id="a", action="f:a"), child]
    assert definition(tasks=tasks).tasks[1].parents == ("a",)


@pytest.mark.parametrize("text", ["0h", "0s", "87600h", "1h30m", "500ms"])
def test_timeouts_from_nothing_to_ten_years_are_taken(text):
    task = v1.CreateTaskOpts(readable_id="a", action="f:a", timeout=text, schedule_timeout=text)
    found = definition(tasks=[task]).tasks[0]
    assert (found.execution_timeout, found.schedule_timeout) == (text, text)


def test_cron_with_seconds_and_zone_is_taken():
    crons = ["*/5 * * * *", "0 */5 * * * *", "TZ=Europe/Berlin 0 9 * * 1-5"]
    assert list(definition(cron_triggers=crons).cron_triggers) == crons


# ---------------------------------------------------------------- metadata


@pytest.mark.parametrize("metadata", ["", "{}", " { } "])
def test_trace_is_made_of_the_run_id(metadata):
    text = runs.with_traceparent(metadata, "metadata", RUN, None)
    assert json.loads(text) == {"traceparent": "00-01a20172e2d477c28907dd7d617cad63-8907dd7d617cad63-01"}


def test_child_shares_the_trace_of_its_parent():
    child = json.loads(runs.with_traceparent('{"a":1}', "metadata", RUN, PARENT))
    parent = json.loads(runs.with_traceparent("", "metadata", PARENT, None))
    assert child["traceparent"].split("-")[1] == parent["traceparent"].split("-")[1]
    assert child["a"] == 1


def test_valid_trace_of_the_client_is_kept():
    text = json.dumps({"traceparent": VALID})
    assert runs.with_traceparent(text, "metadata", RUN, None) == text


@pytest.mark.parametrize("bad", ["x", "", 5, None, VALID.replace("00-", "ff-", 1), VALID.upper()])
def test_bad_trace_of_the_client_is_replaced(bad):
    found = json.loads(
        runs.with_traceparent(json.dumps({"traceparent": bad, "k": "v"}), "metadata", RUN, None)
    )
    assert found["traceparent"].startswith("00-01a20172")
    assert found["k"] == "v"


@pytest.mark.parametrize("metadata", ["{}", "{ }", '{"a":1}', '{"a":1} '])
def test_run_that_no_client_triggered_gets_a_trace_on_its_way_to_the_worker(metadata):
    found = json.loads(workers.metadata_of(metadata, RUN))
    assert found.pop("traceparent").startswith("00-01a20172")
    assert found == json.loads(metadata)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_metadata_keeps_its_keys(metadata):
    metadata.pop("traceparent", None)
    text = json.dumps(metadata)
    if checks.has_escaped_null(text):
        with pytest.raises(Refused):
            runs.with_traceparent(text, "metadata", RUN, None)
        return
    found = json.loads(runs.with_traceparent(text, "metadata", RUN, None))
    del found["traceparent"]
    assert found == metadata


@pytest.mark.parametrize(
    ("text", "is_there"),
    [(r'"\u0000"', True), (r'"\\u0000"', False), (r'"\\\u0000"', True), (r'"\\\\u0000"', False)],
)
def test_escaped_null_is_told_from_an_escaped_backslash(text, is_there):
    assert checks.has_escaped_null(text) is is_there
    assert ("\0" in json.loads(text)) is is_there


@pytest.mark.parametrize("text", ["URN", "", "0" * 36, f"{{{RUN}}}"])
def test_what_is_no_id(text):
    assert checks.find_uuid(text) is None


def test_id_in_capitals_is_the_same_id():
    assert checks.find_uuid(RUN.upper()) == RUN


# ---------------------------------------------------------------- workers


def test_registration_defaults():
    found = workers.registration(d.WorkerRegisterRequest(worker_name="w", actions=["A:b", "a:B"]))
    assert found.slot_config == (("default", 100),)
    assert found.actions == ("a:b",)


def test_unknown_language_of_a_worker_is_taken():
    info = d.RuntimeInfo(language=d.UNKNOWN, sdk_version="1")
    assert json.loads(workers.runtime_info(info)) == {"language": "UNKNOWN", "sdk_version": "1"}


def test_labels_keep_their_type():
    found = workers.labels({"gpu": d.WorkerLabels(str_value="a"), "mem": d.WorkerLabels(int_value=0)})
    assert found == (("gpu", "a"), ("mem", 0))


def test_absent_attempt_means_the_current_one():
    event = d.StepActionEvent(task_run_external_id=RUN, event_type=d.STEP_EVENT_TYPE_FAILED)
    assert workers.step_report(event).attempt is None
    event.retry_count = 0
    assert workers.step_report(event).attempt == 0


def test_acknowledgement_is_no_report():
    event = d.StepActionEvent(task_run_external_id=RUN, event_type=d.STEP_EVENT_TYPE_ACKNOWLEDGED)
    assert workers.step_report(event) is None


@pytest.mark.parametrize("output", ["", "null", "[1]", '"x"', "{}"])
def test_any_json_is_an_output_and_kept_as_it_is(output):
    assert workers.completion(output) == (m.ReportKind.COMPLETED, output.encode())


# ---------------------------------------------------------------- results


def result(state, output=None, error=None, name="t"):
    return m.TaskResult(new_id(), name, state, output, error)


def test_results_within_the_limit_are_whole():
    fitted = runs.fit_results(
        [result(TaskRunState.SKIPPED, b'{"skipped": true}'), result(TaskRunState.FAILED, None, b"E")]
    )
    assert [(entry.output, entry.error) for entry in fitted] == [
        (b'{"skipped": true}', None),
        (None, b"E"),
    ]


def test_long_errors_give_way_and_short_ones_stay():
    fitted = runs.fit_results(
        [
            result(TaskRunState.COMPLETED, b"1" * 500),
            result(TaskRunState.FAILED, None, b"x" * 5_000, name="long"),
            result(TaskRunState.FAILED, None, b"short"),
        ],
        limit=2_000,
    )
    assert fitted[0].output == b"1" * 500
    assert fitted[1].error == b"the error of task long is too large to be sent here (5,000 bytes)"
    assert fitted[2].error == b"short"


def test_outputs_beyond_the_limit_empty_the_results():
    assert runs.fit_results([result(TaskRunState.COMPLETED, b"1" * 500)], limit=100) == ()


def details(state, *tasks, is_done):
    return m.RunDetails(RUN, int(state), is_done, b"{}", "{}", tuple(tasks))


def task_details(name, state, output=None, error=None):
    return m.TaskDetails(new_id(), name, int(state), 0, output, error)


def test_run_in_progress_shows_no_output():
    found = runs.run_details(
        details(
            TaskRunState.RUNNING,
            task_details("a", TaskRunState.COMPLETED, b"1"),
            task_details("b", TaskRunState.ASSIGNED),
            is_done=False,
        ),
        1 << 20,
    )
    assert found.task_runs["a"].status == v1.QUEUED
    assert not found.task_runs["a"].HasField("output")
    assert found.task_runs["b"].status == v1.RUNNING
    assert found.status == v1.RUNNING


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ((TaskRunState.COMPLETED, TaskRunState.SKIPPED), v1.COMPLETED),
        ((TaskRunState.COMPLETED, TaskRunState.FAILED, TaskRunState.CANCELLED), v1.FAILED),
        ((TaskRunState.COMPLETED, TaskRunState.CANCELLED), v1.CANCELLED),
        ((TaskRunState.CANCELLED,), v1.CANCELLED),
    ],
)
def test_status_of_an_ended_run(states, status):
    tasks = [task_details(f"t{index}", state) for index, state in enumerate(states)]
    assert runs.run_details(details(0, *tasks, is_done=True), 1 << 20).status == status


def test_run_in_progress_is_queued_while_no_attempt_has_a_worker():
    found = runs.run_details(
        details(
            TaskRunState.RUNNING,
            task_details("a", TaskRunState.COMPLETED, b"1"),
            task_details("failed", TaskRunState.FAILED, None, b"boom"),
            task_details("b", TaskRunState.WAITING),
            task_details("c", TaskRunState.BACKING_OFF),
            is_done=False,
        ),
        1 << 20,
    )
    assert {task.status for task in found.task_runs.values()} == {v1.QUEUED}
    assert not found.task_runs["failed"].HasField("error")
    assert (found.status, found.done) == (v1.QUEUED, False)


def test_evicted_task_reads_as_running():
    found = runs.run_details(
        details(
            TaskRunState.RUNNING,
            task_details("a", TaskRunState.EVICTED),
            task_details("b", TaskRunState.WAITING),
            is_done=False,
        ),
        1 << 20,
    )
    assert (found.task_runs["a"].status, found.task_runs["a"].is_evicted) == (v1.RUNNING, True)
    assert (found.task_runs["b"].status, found.task_runs["b"].is_evicted) == (v1.QUEUED, False)
    assert (found.status, found.is_evicted) == (v1.RUNNING, True)


def test_ended_run_tells_each_task_by_its_name():
    tasks = (
        task_details("a", TaskRunState.COMPLETED, b'{"v":1}'),
        task_details("s", TaskRunState.SKIPPED, b'{"skipped": true}'),
        task_details("f", TaskRunState.FAILED, None, b"boom"),
        task_details("c", TaskRunState.CANCELLED, None, b"parent failed"),
    )
    found = runs.run_details(details(TaskRunState.FAILED, *tasks, is_done=True), 1 << 20)
    assert {name: task.external_id for name, task in found.task_runs.items()} == {
        task.task_name: task.task_run_id for task in tasks
    }
    assert found.task_runs["s"].output == b'{"skipped": true}'
    assert not found.task_runs["a"].HasField("error")
    assert found.task_runs["f"].error == "boom"
    assert not found.task_runs["f"].HasField("output")
    assert (found.task_runs["c"].HasField("error"), found.task_runs["c"].error) == (True, "")
    assert (found.status, found.done) == (v1.FAILED, True)


@pytest.mark.parametrize(
    ("state", "is_done", "status"),
    [(TaskRunState.CANCELLED, True, v1.CANCELLED), (TaskRunState.WAITING, False, v1.QUEUED)],
)
def test_run_that_has_no_task_yet_reads_as_the_run_itself(state, is_done, status):
    found = runs.run_details(details(state, is_done=is_done), 1 << 20)
    assert (found.status, found.done, dict(found.task_runs)) == (status, is_done, {})


def test_cancelled_task_has_an_error_that_is_empty():
    found = runs.run_details(
        details(0, task_details("a", TaskRunState.CANCELLED), is_done=True), 1 << 20
    ).task_runs["a"]
    assert found.HasField("error")
    assert found.error == ""


# ---------------------------------------------------------------- batched


def test_batches_are_closed_at_the_target_size():
    writer = batched.DownWriter(1 << 22)
    orders = deque(make_assignment(input=b'"' + b"x" * 100_000 + b'"') for _ in range(5))
    sizes = []
    while orders:
        down, _, held, oversized = writer.build(orders)
        sizes.append(held)
        assert len(down.SerializeToString()) < 1 << 22
        assert not oversized
    assert sum(sizes) == 5
    assert len(sizes) > 1


def test_start_that_no_message_can_carry_is_set_aside():
    writer = batched.DownWriter(1 << 16)
    big = make_assignment(input=b'"' + b"x" * (1 << 16) + b'"')
    down, _, held, oversized = writer.build(deque([make_assignment(), big, make_assignment()]))
    # The large one may not travel with others, so the first message ends before it.
    assert (held, oversized, down.batch) == (1, [], 1)
    rest = deque([big, make_assignment()])
    down, _, held, oversized = writer.build(rest)
    assert oversized == [big]
    assert all(start.input != big.input for start in down.assignments)


def test_equal_steps_of_different_objects_are_named_once():
    step = make_assignment().step
    twin = m.StepRef(*step)
    down, *_ = batched.DownWriter(1 << 22).build(
        deque([make_assignment(step=step), make_assignment(step=twin)])
    )
    assert len(down.steps) == 1
    assert [assignment.step for assignment in down.assignments] == [1, 1]


def test_report_with_bytes_that_are_no_text_fails_the_attempt():
    up = s.WorkerUp(reports=[s.TaskReport(task_run_id=RUN, kind=s.REPORT_KIND_COMPLETED, payload=b"\xff")])
    (report,) = batched.task_reports(up)
    assert report.kind is m.ReportKind.FAILED


def test_desired_labels_travel_as_text():
    request = t.TriggerWorkflowRequest(
        name="f", desired_worker_labels={"gpu": t.DesiredWorkerLabels(int_value=2, comparator=3)}
    )
    assert json.loads(runs.new_run(request, RUN).desired_labels) == {
        "gpu": {"value": 2, "comparator": "GREATER_THAN_OR_EQUAL", "weight": 100, "required": False}
    }


def test_cancel_names_the_attempt():
    start = make_assignment()
    order = m.CancelOrder(start.step, start.run_id, start.task_run_id, 3, "{}", 2)
    action = workers.cancel_action(TENANT, order)
    assert (action.retry_count, action.action_type) == (3, d.CANCEL_STEP_RUN)


# ---------------------------------------------------------------- rate


def test_bucket_refills_with_time_and_never_past_a_second():
    now = [0.0]
    limiter = RateLimiter(10, lambda: now[0])
    assert [limiter.try_take("a") for _ in range(11)] == [True] * 10 + [False]
    assert limiter.try_take("b")
    now[0] = 0.25
    assert [limiter.try_take("a") for _ in range(3)] == [True, True, False]
    now[0] = 100.0
    assert sum(limiter.try_take("a") for _ in range(20)) == 10


def test_no_rate_is_no_limit():
    limiter = RateLimiter(0, lambda: 0.0)
    assert all(limiter.try_take("a") for _ in range(100))
