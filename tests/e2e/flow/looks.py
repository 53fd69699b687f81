"""What tests of flow control ask of the notes: who started when, who ran beside whom, on which worker."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tests.e2e.runs.harness import FlowsUnderTest, Run
from tests.processes import wait_until

Note = dict[str, Any]


def starts(flows: FlowsUnderTest, tag: str, task: str | None = None) -> list[Note]:
    """Notes of starts under a tag, in order of time."""
    return [note for note in flows.notes(tag) if note["what"] == "starts" and task in (None, note["task"])]


def all_started(
    flows: FlowsUnderTest, tag: str, count: int, task: str | None = None, *, timeout: float = 30
) -> list[Note]:
    """Waits until so many starts are noted, and returns them."""

    def found() -> list[Note] | None:
        seen = starts(flows, tag, task)
        return seen if len(seen) >= count else None

    return wait_until(found, what=f"{count} starts under {tag}", timeout=timeout, interval=0.05)


def all_ended(flows: FlowsUnderTest, tag: str, count: int, *, timeout: float = 60) -> None:
    def ended() -> int:
        return sum(note["what"] == "ends" for note in flows.notes(tag))

    wait_until(lambda: ended() >= count, what=f"{count} ends under {tag}", timeout=timeout, interval=0.05)


def most_at_once(notes: Iterable[Note]) -> int:
    """How many task runs were between their start and their end (or their being told to stop) at one time, at most."""
    steps = [
        (note["at"], 1 if note["what"] == "starts" else -1)
        for note in notes
        if note["what"] in ("starts", "ends", "is told to stop")
    ]
    running = most = 0
    for _, step in sorted(steps):  # an end and a start at one moment: the end first
        running += step
        most = max(most, running)
    return most


def most_at_once_by_group(notes: Sequence[Note]) -> dict[str, int]:
    groups = {note["group"] for note in notes}
    return {group: most_at_once(note for note in notes if note["group"] == group) for group in groups}


def in_order(notes: Iterable[Note], runs: Sequence[Run]) -> list[int]:
    """The places in `runs` of those that started, in order of their starts."""
    places = {run.id: place for place, run in enumerate(runs)}
    return [places[note["run"]] for note in notes]


def workers_of(run: Run) -> dict[str, str]:
    """Which worker ran which task of a run; of a task that ran more than once, the last."""
    return {note["task"]: note["worker"] for note in run.notes(what="starts")}


def count_by_worker(notes: Iterable[Note]) -> Counter[str]:
    return Counter(note["worker"] for note in notes)


def reason(flows: FlowsUnderTest, task_run_id: str) -> str:
    """Why a task run ended as it did, as people are told: over HTTP."""
    return str(flows.rest.get(f"S/tasks/{task_run_id}").get("errorMessage") or "")


def cancel_all(flows: FlowsUnderTest, runs: Iterable[Run]) -> None:
    """Ends what a test leaves waiting."""
    for run in runs:
        flows.call(do="cancel", run_id=run.id)
        run.end()
