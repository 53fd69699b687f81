"""The unmodified hatchet-sdk, newest and 1.37.5, as worker and client in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat.conftest import PYTHON_1375, Hatchet
from tests.processes import PYTHON, ROLES, Server, role

pytestmark = pytest.mark.timeout(180)


def test_worker_registers_and_runs_a_task(hatchet: Hatchet) -> None:
    answer = hatchet.client.call(
        do="run", task="echo", item={"index": 7, "text": 'grüße\n"quoted"'}, metadata={"who": "compat"}
    )
    assert answer["output"]["index"] == 7
    assert answer["output"]["text"] == 'grüße\n"quoted"'
    assert answer["output"]["retry_count"] == 0
    assert answer["output"]["metadata"]["who"] == "compat"


def test_synchronous_run_polls_the_details_to_the_result(hatchet: Hatchet) -> None:
    answer = hatchet.client.call(do="run_sync", task="echo", item={"index": 8})
    assert answer["output"]["index"] == 8


def test_synchronous_task_runs_in_a_thread(hatchet: Hatchet) -> None:
    answer = hatchet.client.call(do="run", task="echo_in_thread", item={"index": 9, "seconds": 0.1})
    assert answer["output"] == {"index": 9}


def test_task_without_output_answers_nothing(hatchet: Hatchet) -> None:
    answer = hatchet.client.call(do="run", task="noop", item={"index": 1})
    assert not answer["output"]


def test_run_many_answers_in_order(hatchet: Hatchet) -> None:
    answer = hatchet.client.call(do="run_many", task="echo", items=[{"index": index} for index in range(120)])
    assert [result["index"] for result in answer["results"]] == list(range(120))
    assert len({result["workflow_run_id"] for result in answer["results"]}) == 120


def test_run_many_keeps_failures_in_their_places(hatchet: Hatchet) -> None:
    answer = hatchet.client.call(
        do="run_many", task="fail", items=[{"index": 1, "text": "a"}, {"index": 2, "text": "b"}]
    )
    assert [
        "task 1 refused: a" in answer["results"][0]["text"],
        "task 2 refused: b" in answer["results"][1]["text"],
    ] == [
        True,
        True,
    ]


def test_results_of_runs_triggered_earlier_are_collected_later(hatchet: Hatchet) -> None:
    triggered = hatchet.client.call(
        do="trigger", task="echo", items=[{"index": index} for index in range(10)]
    )
    collected = hatchet.client.call(do="results")
    assert [result["workflow_run_id"] for result in collected["results"]] == triggered["run_ids"]


def test_task_spawns_children_and_gathers_their_results(hatchet: Hatchet) -> None:
    answer = hatchet.client.call(do="family", count=12)
    assert answer["one"]["index"] == 100
    assert answer["many"] == list(range(12))
    assert answer["metadata"]["hatchet__parent_workflow_run_id"]
    assert answer["metadata"]["hatchet__parent_step_run_id"]


def test_failure_reaches_the_caller_with_its_text(hatchet: Hatchet) -> None:
    answer = hatchet.client.call(do="run", task="fail", item={"index": 3, "text": "no: because"})
    assert answer["raised"]["raised"] == "FailedTaskRunExceptionGroup"
    assert "ValueError" in answer["raised"]["text"]
    assert "task 3 refused: no: because" in answer["raised"]["text"]
    assert "Traceback" in answer["raised"]["text"]


def test_failure_reaches_the_synchronous_caller(hatchet: Hatchet) -> None:
    answer = hatchet.client.call(do="run_sync", task="fail", item={"index": 4, "text": "sync"})
    assert "task 4 refused: sync" in answer["raised"]["text"]


def test_failed_attempts_are_retried_until_one_completes(hatchet: Hatchet) -> None:
    answer = hatchet.client.call(do="run", task="flaky", item={"fail_attempts": 2})
    assert answer["output"] == {"retry_count": 2}


def test_retries_end_with_the_last_failure(hatchet: Hatchet) -> None:
    answer = hatchet.client.call(do="run", task="flaky", item={"fail_attempts": 99})
    assert "attempt 3 fails" in answer["raised"]["text"]


def test_stream_arrives_in_order(hatchet: Hatchet) -> None:
    gate = hatchet.directory / "gate"
    answer = hatchet.client.call(do="stream", count=25, gate=str(gate))
    gate.unlink()
    assert "".join(answer["chunks"]) == "".join(f"chunk {index};" for index in range(25))
    assert answer["output"] == {"chunks": 25}


@pytest.mark.parametrize("order", ["broadaxe hatchet_sdk", "hatchet_sdk broadaxe"])
def test_both_packages_work_in_one_process(
    server: Server, hatchet: Hatchet, tmp_path: Path, order: str
) -> None:
    """Both register messages of the same contract: one global descriptor pool must hold them side by side."""
    if hatchet.version != "newest":
        pytest.skip("broadaxe and 1.37.5 live in different environments")
    environment = {key: value for key, value in server.client_environment().items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROLES / "both.py"), *order.split()],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", **environment, "HATCHET_CLIENT_NAMESPACE": "compatnewest"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = order.split()
    assert done.stdout.splitlines()[-1] == f"{first} ran 0; {second} ran 1"


def test_worker_stops_in_order_on_sigterm(server: Server, hatchet: Hatchet, tmp_path: Path) -> None:
    """Its last calls are the pause over REST and Unsubscribe; both must be answered."""
    worker = role(
        server.client_environment(),
        "worker",
        "hatchet_sdk",
        "leaver",
        "5",
        directory=tmp_path,
        python=PYTHON if hatchet.version == "newest" else str(PYTHON_1375),
        env={"HATCHET_CLIENT_NAMESPACE": "leaver"},
    )
    with worker:
        client = role(
            server.client_environment(),
            "client",
            "hatchet_sdk",
            directory=tmp_path,
            env={"HATCHET_CLIENT_NAMESPACE": "leaver"},
        )
        with client:
            client.call(do="warm", timeout=60)
        assert worker.stop(timeout=30) == 0
        assert "task assignment paused" in worker.output()
        assert "failed to pause" not in worker.output().lower()
