"""Workflows of several tasks: order, outputs, failure and cancellation going down, on-failure, on-success, defaults."""

import time

import pytest

from tests.e2e.runs.harness import SKIPPED, FlowsUnderTest, Run, of_the_engine

pytestmark = pytest.mark.timeout(120)


# ---- shapes and outputs


def test_children_start_after_all_their_parents_and_see_their_outputs(flows: FlowsUnderTest) -> None:
    run = flows.start("diamond", {"top": {"value": 7}, "left": {"value": 20}, "right": {"value": 300}})
    end = run.end()
    assert end.status == "COMPLETED"
    assert set(end.statuses.values()) == {"COMPLETED"}
    assert end.output("left")["parents"] == {"top": 7}
    assert end.output("bottom")["parents"] == {"left": 20, "right": 300}
    began = {task: run.note(task)["at"] for task in ("top", "left", "right", "bottom")}
    ended = {task: run.note(task, "ends")["at"] for task in ("top", "left", "right")}
    assert ended["top"] <= min(began["left"], began["right"])
    assert max(ended["left"], ended["right"]) <= began["bottom"]
    assert all(run.ran(task) == 1 for task in began)


def test_branches_run_at_the_same_time(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("diamond", {"left": {"gate": gate}, "right": {"gate": gate}})
    run.note("left")
    run.note("right")  # both are in their bodies, and neither may leave
    assert run.ran("bottom") == 0
    flows.open(gate)
    assert run.end().status == "COMPLETED"


def test_result_holds_the_output_of_every_task_by_name(flows: FlowsUnderTest) -> None:
    answer = flows.run("diamond", {"bottom": {"value": 5}})
    assert sorted(answer["output"]) == ["bottom", "left", "right", "top"]
    assert answer["output"]["bottom"]["value"] == 5


def test_blocking_call_returns_the_same(flows: FlowsUnderTest) -> None:
    answer = flows.call(do="run_sync", flow="chain", plan=flows.plan({"two": {"value": 2}}))
    assert answer["output"]["three"]["parents"] == {"two": 2}


def test_task_of_a_graph_is_retried_alone(flows: FlowsUnderTest) -> None:
    run = flows.start("chain", {"one": {"fail_attempts": 1}})
    end = run.end()
    assert end.status == "COMPLETED"
    assert end.output("one")["retry_count"] == 1
    assert (run.ran("one"), run.ran("two"), run.ran("three")) == (2, 1, 1)
    assert end.output("two")["retry_count"] == 0


def test_run_and_its_tasks_have_ids_of_their_own(flows: FlowsUnderTest) -> None:
    run = flows.start("diamond")
    end = run.end()
    ids = {task.id for task in end.tasks.values()}
    assert len(ids) == 4
    assert run.id not in ids
    assert {note["run"] for note in run.notes()} == {run.id}
    assert {note["task_run"] for note in run.notes()} == ids


# ---- failure


def test_failed_task_cancels_what_is_below_and_nothing_else(flows: FlowsUnderTest) -> None:
    run = flows.start("fork", {"broken": {"error": "no way"}, "after": {"value": 9}})
    end = run.end()
    assert end.status == "FAILED"
    assert end.statuses == {
        "start": "COMPLETED",
        "broken": "FAILED",
        "below": "CANCELLED",
        "far-below": "CANCELLED",
        "both": "CANCELLED",
        "fine": "COMPLETED",
        "after": "COMPLETED",
        "rescue": "COMPLETED",
    }
    assert "no way" in end.error("broken")
    assert end.error("below") == ""
    assert run.ran("below") == run.ran("far-below") == run.ran("both") == 0


def test_failure_of_one_task_raises_with_its_text(flows: FlowsUnderTest) -> None:
    answer = flows.run("fork", {"broken": {"error": "text of the failure"}})
    assert answer["raised"]["raised"] in {"FailedRunError", "FailedTaskRunExceptionGroup"}
    assert "text of the failure" in answer["raised"]["text"]
    assert len(answer["raised"]["errors"]) == 1


def test_two_failures_are_both_told(flows: FlowsUnderTest) -> None:
    answer = flows.run("fork", {"broken": {"error": "first woe"}, "fine": {"error": "second woe"}})
    assert len(answer["raised"]["errors"]) == 2
    assert "first woe" in answer["raised"]["text"]
    assert "second woe" in answer["raised"]["text"]


# ---- the on-failure task


def test_on_failure_sees_the_errors_and_the_input(flows: FlowsUnderTest) -> None:
    run = flows.start("fork", {"broken": {"error": "it broke"}})
    rescue = run.end().output("rescue")
    assert list(rescue["errors"]) == ["broken"]
    assert "it broke" in rescue["errors"]["broken"]
    assert rescue["tag"] == run.tag


def test_on_failure_asks_for_the_error_of_one_task(flows: FlowsUnderTest) -> None:
    end = flows.end("handled", {"risky": {"error": "the risk was real"}})
    assert "the risk was real" in end.output("rescue")["error_of"]["risky"]


def test_on_failure_does_not_wait_for_the_other_branches(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("fork", {"broken": {"error": "early"}, "fine": {"gate": gate}})
    run.note("rescue", "ends")
    assert not run.is_done()
    flows.open(gate)
    end = run.end()
    assert end.status == "FAILED"
    assert end.statuses["after"] == "COMPLETED"


def test_run_is_final_only_with_its_on_failure_task(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("handled", {"risky": {"error": "gone"}, "rescue": {"gate": gate}})
    run.note("rescue")
    assert not run.is_done()
    flows.open(gate)
    assert run.end().status == "FAILED"


def test_on_failure_waits_for_the_last_retry(flows: FlowsUnderTest) -> None:
    run = flows.start("handled", {"risky": {"error": "again"}})
    end = run.end()
    assert run.ran("risky") == 2
    assert run.note("risky", count=2)["at"] <= run.note("rescue")["at"]
    assert end.statuses == {"risky": "FAILED", "rescue": "COMPLETED"}
    recovered = flows.start("handled", {"risky": {"fail_attempts": 1}})
    assert recovered.end().status == "COMPLETED"
    assert recovered.ran("rescue") == 0


def test_on_failure_is_skipped_when_nothing_failed(flows: FlowsUnderTest) -> None:
    run = flows.start("handled")
    end = run.end()
    assert end.status == "COMPLETED"
    assert end.statuses == {"risky": "COMPLETED", "rescue": "COMPLETED"}
    assert end.output("rescue") == SKIPPED
    assert run.ran("rescue") == 0


def test_on_failure_is_retried_as_it_declares(flows: FlowsUnderTest) -> None:
    run = flows.start("handled", {"risky": {"error": "gone"}, "rescue": {"fail_attempts": 1}})
    end = run.end()
    assert run.ran("rescue") == 2
    assert end.statuses == {"risky": "FAILED", "rescue": "COMPLETED"}
    assert end.status == "FAILED"


# ---- the on-success task


def test_on_success_runs_after_every_leaf(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("praised", {"second": {"gate": gate}})
    run.note("third", "ends")
    assert run.ran("praise") == 0
    flows.open(gate)
    end = run.end()
    assert end.statuses["praise"] == "COMPLETED"
    assert run.note("second", "ends")["at"] <= run.note("praise")["at"]


def test_on_success_does_not_run_after_a_failure(flows: FlowsUnderTest) -> None:
    run = flows.start("praised", {"third": {"error": "no praise"}})
    end = run.end()
    assert (end.status, end.statuses["praise"]) == ("FAILED", "CANCELLED")
    assert run.ran("praise") == 0


# ---- task defaults


def test_task_defaults_hold_where_a_task_says_nothing(flows: FlowsUnderTest) -> None:
    run = flows.start("defaults", {"plain": {"fail_attempts": 2}, "own": {"fail_attempts": 1}})
    end = run.end()
    assert end.status == "COMPLETED"
    assert (run.ran("plain"), run.ran("own")) == (3, 2)
    spent = flows.start("defaults", {"plain": {"fail_attempts": 3}, "own": {"fail_attempts": 2}}).end()
    assert spent.statuses == {"plain": "FAILED", "own": "FAILED"}


@of_the_engine
def test_default_timeout_holds_and_an_own_one_wins(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("defaults", {"plain": {"gate": gate}, "own": {"gate": gate}})
    run.note("plain", "is told to stop", count=3)  # a second each
    assert run.notes("own", "is told to stop") == []
    flows.open(gate)
    end = run.end()
    assert end.statuses == {"plain": "FAILED", "own": "COMPLETED"}
    assert "Task exceeded timeout of 1s" in end.error("plain")


# ---- cancellation going down


def test_cancelling_a_run_cancels_every_task_of_it(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("fork", {"broken": {"gate": gate}, "fine": {"gate": gate}})
    run.note("broken")
    run.note("fine")
    flows.call(do="cancel", run_id=run.id)
    run.note("broken", "is told to stop")
    run.note("fine", "is told to stop")
    end = run.end()
    assert end.status == "CANCELLED"
    statuses = end.statuses
    assert statuses.pop("start") == "COMPLETED"
    assert end.output("start")["value"] == 1
    assert statuses.pop("rescue") == "COMPLETED"  # nothing failed: it is skipped
    assert end.output("rescue") == SKIPPED
    assert set(statuses.values()) == {"CANCELLED"}
    assert run.ran("rescue") == run.ran("after") == run.ran("below") == 0


def test_cancelling_one_task_cancels_what_is_below_it_alone(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("fork", {"broken": {"gate": gate}, "fine": {"gate": gate}})
    task_run_id = run.note("broken")["task_run"]
    run.note("fine")
    flows.call(do="cancel", run_id=task_run_id)
    run.note("broken", "is told to stop")
    flows.open(gate)
    end = run.end()
    assert end.status == "CANCELLED"
    assert {name for name, status in end.statuses.items() if status == "CANCELLED"} == {
        "broken",
        "below",
        "far-below",
        "both",
    }
    assert end.statuses["after"] == "COMPLETED"
    assert run.ran("rescue") == 0


def test_cancelled_run_is_told_to_who_waits(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("chain", {"two": {"gate": gate}})
    run.note("two")
    flows.call(do="cancel", run_id=run.id)
    answer = run.result()
    if flows.is_ours:
        assert answer["raised"]["raised"] == "RunCancelledError"
        assert run.id in answer["raised"]["text"]
    else:  # it resolves quietly, without the cancelled tasks
        assert list(answer["output"]) == ["one"]
    assert flows.call(do="status", run_id=run.id) == {"status": "CANCELLED"}


# ---- replay: of a run, of a task


def test_replay_of_a_run_runs_all_its_tasks_again(flows: FlowsUnderTest) -> None:
    run = flows.start("diamond", {"left": {"fail_attempts": 1}, "right": {"value": 4}})
    before = run.end()
    assert before.status == "FAILED"
    flows.call(do="replay", run_id=run.id)
    after = run.end()
    assert after.status == "COMPLETED"
    assert {name: task.id for name, task in after.tasks.items()} == {
        name: task.id for name, task in before.tasks.items()
    }
    assert [run.ran(task) for task in ("top", "left", "right", "bottom")] == [2, 2, 2, 1]
    assert after.output("bottom")["parents"] == {"left": 1, "right": 4}
    assert {after.output(task)["retry_count"] for task in ("top", "left", "right")} == {1}


def test_replayed_run_is_unfinished_as_soon_as_the_call_returns(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("chain", {"one": {"fail_attempts": 2}, "two": {"gate": gate}})
    assert run.end().status == "FAILED"
    flows.call(do="replay", run_id=run.id)
    assert not run.is_done()
    flows.open(gate)
    assert run.end().status == "COMPLETED"


def test_replay_of_a_task_keeps_its_siblings_and_runs_what_is_below(flows: FlowsUnderTest) -> None:
    run = flows.start("fork", {"broken": {"fail_attempts": 1}, "fine": {"value": 6}})
    before = run.end()
    assert before.statuses["broken"] == "FAILED"
    flows.call(do="replay", run_id=before.tasks["broken"].id)
    after = run.end()
    assert after.status == "COMPLETED"
    assert {name: status for name, status in after.statuses.items() if name != "rescue"} == dict.fromkeys(
        ("start", "broken", "below", "far-below", "fine", "after", "both"), "COMPLETED"
    )
    assert [run.ran(task) for task in ("start", "fine", "after")] == [1, 1, 1]
    assert [run.ran(task) for task in ("broken", "below", "far-below", "both")] == [2, 1, 1, 1]
    assert after.output("both")["parents"] == {"after": 1, "below": 1}
    assert after.output("after")["parents"] == {"fine": 6}


def test_replay_of_a_completed_single_task_counts_up_and_keeps_its_input(flows: FlowsUnderTest) -> None:
    run = flows.start("lone", {"lone": {"value": 12}})
    first = run.end().output("lone")
    flows.call(do="replay", run_id=run.id)
    second = run.end().output("lone")
    assert (first["value"], second["value"]) == (12, 12)
    assert (first["retry_count"], second["retry_count"]) == (0, 1)
    assert (first["attempt_number"], second["attempt_number"]) == (1, 2)


def test_replay_restores_the_budget_of_retries(flows: FlowsUnderTest) -> None:
    run = flows.start("lone-retried", {"lone-retried": {"fail_attempts": 3}})
    assert run.end().status == "FAILED"  # attempts 0 and 1
    flows.call(do="replay", run_id=run.id)  # attempts 2 and 3
    end = run.end()
    assert end.status == "COMPLETED"
    assert end.output("lone-retried")["retry_count"] == 3


def test_replay_of_a_running_run_is_ignored(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("chain", {"two": {"gate": gate}})
    run.note("two")
    flows.call(do="replay", run_id=run.id)
    flows.call(do="replay", run_id=run.note("one")["task_run"])
    flows.open(gate)
    end = run.end()
    assert end.status == "COMPLETED"
    assert [run.ran(task) for task in ("one", "two", "three")] == [1, 1, 1]


def test_replay_of_a_cancelled_run_runs_it(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    run = flows.start("chain", {"two": {"gate": gate}})
    run.note("two")
    flows.call(do="cancel", run_id=run.id)
    assert run.end().status == "CANCELLED"
    flows.open(gate)
    flows.call(do="replay", run_id=run.id)
    assert run.end().status == "COMPLETED"


def test_on_failure_is_armed_again_by_a_replay(flows: FlowsUnderTest) -> None:
    run = flows.start("handled", {"risky": {"error": "always"}})
    assert run.end().status == "FAILED"
    assert run.ran("rescue") == 1
    flows.call(do="replay", run_id=run.id)
    assert run.end().status == "FAILED"
    assert run.ran("rescue") == 2


def test_two_replays_are_two_further_attempts(flows: FlowsUnderTest) -> None:
    run = flows.start("lone")
    for count in range(3):
        assert run.end().output("lone")["retry_count"] == count
        if count < 2:
            flows.call(do="replay", run_id=run.id)
    assert run.ran("lone") == 3


# ---- many at once


def test_bulk_cancel_and_bulk_replay_by_ids(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    plans = [flows.plan({"two": {"gate": gate}}) for _ in range(4)]
    runs = flows.start_many("chain", plans)
    for run in runs:
        run.note("two")
    chosen, spared = runs[:3], runs[3]
    flows.call(do="bulk", action="cancel", ids=[run.id for run in chosen])
    assert [run.end().status for run in chosen] == ["CANCELLED"] * 3
    assert not spared.is_done()
    flows.open(gate)
    assert spared.end().status == "COMPLETED"
    flows.call(do="bulk", action="replay", ids=[run.id for run in chosen])
    assert [run.end().status for run in chosen] == ["COMPLETED"] * 3
    assert spared.ran("one") == 1


def test_bulk_cancel_and_bulk_replay_by_filter(flows: FlowsUnderTest) -> None:
    gate = flows.new_gate()
    key = flows.new_gate()
    plan = {"lone": {"gate": gate}}
    mine = flows.start_many("lone", [flows.plan(plan) for _ in range(3)], additional_metadata={"set": key})
    other_metadata = flows.start("lone", plan, options={"additional_metadata": {"set": "another"}})
    other_flow = flows.start(
        "lone-retried", {"lone-retried": {"gate": gate}}, options={"additional_metadata": {"set": key}}
    )
    for run in (*mine, other_metadata):
        run.note("lone")
    other_flow.note("lone-retried")
    workflow_id = mine[0].note("lone")["workflow"]
    selection = {"since": 600, "workflow_ids": [workflow_id], "metadata": {"set": key}}
    flows.call(do="bulk", action="cancel", statuses=["COMPLETED", "FAILED"], **selection)
    assert not any(run.is_done() for run in mine)  # none of them has such a status
    flows.call(do="bulk", action="cancel", statuses=["QUEUED", "RUNNING"], **selection)
    assert [run.end().status for run in mine] == ["CANCELLED"] * 3
    flows.open(gate)
    assert other_metadata.end().status == "COMPLETED"
    assert other_flow.end().status == "COMPLETED"
    flows.call(do="bulk", action="replay", statuses=["CANCELLED"], **selection)
    assert [run.end().status for run in mine] == ["COMPLETED"] * 3
    assert (other_metadata.ran("lone"), other_flow.ran("lone-retried")) == (1, 1)


def test_cancel_of_what_has_ended_changes_nothing(flows: FlowsUnderTest) -> None:
    run = flows.start("diamond")
    before = run.end()
    flows.call(do="cancel", run_id=run.id)
    flows.call(do="cancel", run_id=before.tasks["top"].id)
    assert run.details() == before


def test_unknown_ids_are_ignored(flows: FlowsUnderTest) -> None:
    run = flows.start("lone")
    run.end()
    unknown = "0197b6a0-0000-7000-8000-000000000000"
    flows.call(do="bulk", action="cancel", ids=[unknown, run.id])
    flows.call(do="bulk", action="replay", ids=[unknown, run.id])
    assert run.end().output("lone")["retry_count"] == 1


def test_graph_of_many_runs_at_once(flows: FlowsUnderTest) -> None:
    began = time.monotonic()
    runs = flows.start_many("diamond", [flows.plan({"top": {"value": index}}) for index in range(60)])
    ends = [run.end() for run in runs]
    assert [end.output("left")["parents"]["top"] for end in ends] == list(range(60))
    assert {end.status for end in ends} == {"COMPLETED"}
    assert time.monotonic() - began < 60


# ---- what clients do over HTTP alone


def test_client_reads_runs_tasks_workflows_and_workers(flows: FlowsUnderTest) -> None:
    run = flows.start("chain", {"one": {"value": 3}})
    run.end()
    found = flows.call(do="read", flow="chain", run_id=run.id)
    assert (found["status"], found["tasks"]) == ("COMPLETED", ["one", "three", "two"])
    assert run.id in found["listed"]
    assert found["output"]["task"] in {"one", "two", "three"}
    assert found["workflow"].endswith("chain")
    assert found["worker"]
    details = flows.call(do="details", run_id=run.id)
    assert details == {
        "status": "COMPLETED",
        "tasks": {"one": "COMPLETED", "two": "COMPLETED", "three": "COMPLETED"},
    }


def test_client_pauses_a_worker(flows: FlowsUnderTest) -> None:
    assert flows.call(do="pause", name="flows", pause=True)["workers"] >= 1
    run = flows.start("lone")
    time.sleep(0.7)  # a task that should wait would start in this time
    assert run.ran("lone") == 0
    flows.call(do="pause", name="flows", pause=False)
    assert run.end().status == "COMPLETED"


def test_client_triggers_by_name(flows: FlowsUnderTest) -> None:
    plan = flows.plan({"top": {"value": 8}})
    run = Run(flows, flows.call(do="create", flow="diamond", plan=plan)["run_id"], plan["tag"], "diamond")
    assert run.end().output("left")["parents"] == {"top": 8}


def test_client_cancels_and_replays_page_by_page(flows: FlowsUnderTest) -> None:
    gate, key = flows.new_gate(), flows.new_gate()
    plans = [flows.plan({"lone": {"gate": gate}}) for _ in range(5)]
    runs = flows.start_many("lone", plans, additional_metadata={"page": key})
    for run in runs:
        run.note("lone")
    selection = {"since": 600, "metadata": {"page": key}}
    flows.call(do="bulk_paged", action="cancel", statuses=["QUEUED", "RUNNING"], **selection)
    assert [run.end().status for run in runs] == ["CANCELLED"] * 5
    flows.open(gate)
    flows.call(do="bulk_paged", action="replay", statuses=["CANCELLED"], **selection)
    assert [run.end().status for run in runs] == ["COMPLETED"] * 5
