"""What tasks say while they run: log lines, stream chunks, metadata; and tasks known by their names alone."""

import time
from typing import Any

import pytest

from tests.e2e.runs.harness import FlowsUnderTest, Run
from tests.processes import wait_until

LIMIT = 1_000
"""Log lines that the engine keeps of a task."""
pytestmark = pytest.mark.timeout(120)


def rows(flows: FlowsUnderTest, run: Run) -> list[dict[str, Any]]:
    """The log lines of a run's one task, as the client lists them."""
    answer = flows.call(do="logs", task_run_id=run.id)
    return [
        {"message": message, "retry_count": count}
        for message, count in zip(answer["lines"], answer["retry_counts"], strict=True)
    ]


def logs(flows: FlowsUnderTest, run: Run, count: int) -> list[str]:
    """The log lines of a run, once there are that many: lines are stored in the background."""

    def listed() -> list[str] | None:
        lines = [row["message"] for row in rows(flows, run)]
        return lines if len(lines) >= count else None

    return wait_until(listed, what=f"{count} log lines of {run.flow} {run.id}", timeout=20, interval=0.2)


# ---- logs


def test_log_lines_arrive_in_order(flows: FlowsUnderTest) -> None:
    run = flows.start("logs", count=40)
    run.end()
    lines = logs(flows, run, 41)
    assert lines[:40] == [f"line {index}" for index in range(40)]
    assert lines[40].replace(" ", "") == '{"kind":"mapping"}'


def test_a_thousand_lines_are_kept_and_no_more(flows: FlowsUnderTest) -> None:
    run = flows.start("logs", count=LIMIT + 200)
    assert run.end().status == "COMPLETED"
    lines = logs(flows, run, LIMIT)
    assert lines == [f"line {index}" for index in range(LIMIT)]


def test_records_of_the_logging_package_are_logs_of_the_task(flows: FlowsUnderTest) -> None:
    run = flows.start("logs-by-package", count=3)
    run.end()
    lines = [line for line in logs(flows, run, 4) if "packaged" in line]
    assert [line.rsplit("packaged ", 1)[1] for line in lines] == ["0", "1", "2", "error"]


def test_threads_log_too(flows: FlowsUnderTest) -> None:
    run = flows.start("logs-in-thread")
    run.end()
    lines = logs(flows, run, 2)
    assert any("from a thread" in line for line in lines)
    assert any("said in a thread" in line for line in lines)


def test_logs_of_two_tasks_are_kept_apart(flows: FlowsUnderTest) -> None:
    one, other = flows.start("logs", count=2), flows.start("logs-in-thread")
    one.end()
    other.end()
    assert not any("thread" in line for line in logs(flows, one, 3))
    assert not any("line" in line for line in logs(flows, other, 2))


def test_lines_of_a_retried_task_say_their_attempt(flows: FlowsUnderTest) -> None:
    run = flows.start("logs-and-fails")
    assert run.end().status == "COMPLETED"
    logs(flows, run, 2)
    said = {row["message"]: row["retry_count"] for row in rows(flows, run)}
    assert (said["attempt 1"], said["attempt 2"]) == (0, 1)


# ---- streams


def test_chunks_of_many_streams_at_once_arrive_in_order(flows: FlowsUnderTest) -> None:
    """Each subscriber shows all chunks of its run and none of another's, in order, while all of them stream."""
    width, count = 8, 400
    gate = flows.new_gate()
    runs = flows.start_many("streams", [flows.plan(group=gate, count=count) for _ in range(width)])
    for run in runs:
        run.note("streams")
    flows.client.send(do="stream", run_ids=[run.id for run in runs], last="end")
    time.sleep(
        1.5
    )  # neither SDK says when its subscription stands at the engine, and streams are not replayed
    flows.open(gate)
    received = flows.client.receive(timeout=60)["chunks"]
    for chunks in received:
        assert "".join(chunks) == "".join(f"{index};" for index in range(count)) + "end"
    assert [run.end().status for run in runs] == ["COMPLETED"] * width


# ---- metadata


def test_metadata_reaches_the_task_and_the_run(flows: FlowsUnderTest) -> None:
    given = {"source": "api", "nested": {"a": [1, "ü"]}}
    run = flows.start("metadata", options={"additional_metadata": given})
    metadata = run.end().output("metadata")["metadata"]
    assert (metadata["source"], metadata["nested"]) == ("api", given["nested"])
    assert not {key for key in metadata if key.startswith("hatchet__")}


def test_default_metadata_is_laid_under_what_is_given(flows: FlowsUnderTest) -> None:
    plain = flows.end("metadata-by-default").output("metadata-by-default")["metadata"]
    assert (plain["team"], plain["tier"]) == ("default", "gold")
    run = flows.start("metadata-by-default", options={"additional_metadata": {"team": "given"}})
    mixed = run.end().output("metadata-by-default")["metadata"]
    assert (mixed["team"], mixed["tier"]) == ("given", "gold")


def test_metadata_of_a_bulk_item(flows: FlowsUnderTest) -> None:
    runs = flows.start_many("metadata", [flows.plan()] * 2, additional_metadata={"bulk": "yes"})
    assert [run.end().output("metadata")["metadata"]["bulk"] for run in runs] == ["yes", "yes"]


# ---- stubs


def test_stub_runs_a_task_by_its_name(flows: FlowsUnderTest) -> None:
    answer = flows.call(do="stub", name="ping", plan=flows.plan() | {"tag": "from a stub"})
    assert answer["output"] == {"ping": "from a stub"}


def test_stub_of_a_workflow_answers_by_task(flows: FlowsUnderTest) -> None:
    answer = flows.call(do="stub_workflow", name="ping", plan=flows.plan() | {"tag": "as a workflow"})
    assert answer["output"] == {"ping": {"ping": "as a workflow"}}


def test_stub_of_nothing_is_refused(flows: FlowsUnderTest) -> None:
    answer = flows.call(do="stub", name="nobody-serves-this", plan=flows.plan())
    assert "nobody-serves-this" in answer["raised"]["text"]
