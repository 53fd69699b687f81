"""The states of a task run and of a run: the transitions between them, in one table. Pure.

`RunTracker` asks `after` for every transition that it makes; the journal's guards, the documentation's diagram and the
property tests read the same table. A pair that is missing cannot happen: `after` raises `EngineBug`, or answers None
where a late or repeated message is to be ignored (`after_or_none`).

A task run is born QUEUED, or WAITING for its parents or conditions; one that its parents decide at once is born SKIPPED or CANCELLED.
A run of one task is in the state of its task run. A run of several tasks has none of its own while it lives: `run_state` derives it.

Sources: behaviour-core 6.1 (life of an attempt), 6.7 (retries, reassignment), 6.10 (progression), 6.11 (run status), 6.12 (cancellation),
6.13 (replay).
"""

from collections.abc import Iterable
from enum import IntEnum, auto

from broadaxe_actors.errors import EngineBug
from broadaxe_storage.records import FINAL_STATES, TaskRunState

S = TaskRunState


class Transition(IntEnum):
    """Why a task run changes its state. A number, as those are looked up at once."""

    ASSIGN = auto()
    """A worker with a free slot was found."""
    START = auto()
    """The worker says that the body runs."""
    COMPLETE = auto()
    FAIL = auto()
    """The attempt failed and is not retried: report, execution time-out, or a spent budget."""
    RETRY = auto()
    """The attempt failed and is retried at once, by the user's budget."""
    BACK_OFF = auto()
    """The attempt failed and is retried after a pause."""
    WAKE = auto()
    """The pause, or the condition that was waited for, is over."""
    REASSIGN = auto()
    """The attempt's worker is lost, or never got it: back to the queue, by the engine's budget."""
    CANCEL = auto()
    SCHEDULE_TIMEOUT = auto()
    """No worker took it in time."""
    SKIP = auto()
    EVICT = auto()
    """A durable task gave up worker and slot while it waits; it keeps its group places."""
    RESTORE = auto()
    """An evicted task goes back to the queue."""
    REPLAY = auto()
    """An ended task is to run again: back to the beginning, where its conditions decide."""


TRANSITIONS: dict[tuple[TaskRunState, Transition], TaskRunState] = {
    (S.WAITING, Transition.WAKE): S.QUEUED,
    (S.WAITING, Transition.SKIP): S.SKIPPED,
    (S.WAITING, Transition.CANCEL): S.CANCELLED,
    # An expression of its conditions failed, or the engine gave it up.
    (S.WAITING, Transition.FAIL): S.FAILED,
    (S.QUEUED, Transition.ASSIGN): S.ASSIGNED,
    (S.QUEUED, Transition.CANCEL): S.CANCELLED,
    (S.QUEUED, Transition.SCHEDULE_TIMEOUT): S.CANCELLED,
    (S.QUEUED, Transition.FAIL): S.FAILED,
    # After a crash a worker may report an attempt whose assignment was not committed: its report counts.
    (S.QUEUED, Transition.START): S.RUNNING,
    (S.QUEUED, Transition.COMPLETE): S.COMPLETED,
    (S.QUEUED, Transition.RETRY): S.QUEUED,
    (S.QUEUED, Transition.BACK_OFF): S.BACKING_OFF,
    (S.ASSIGNED, Transition.START): S.RUNNING,
    (S.ASSIGNED, Transition.COMPLETE): S.COMPLETED,
    (S.ASSIGNED, Transition.FAIL): S.FAILED,
    (S.ASSIGNED, Transition.RETRY): S.QUEUED,
    (S.ASSIGNED, Transition.BACK_OFF): S.BACKING_OFF,
    (S.ASSIGNED, Transition.REASSIGN): S.QUEUED,
    (S.ASSIGNED, Transition.CANCEL): S.CANCELLED,
    (S.ASSIGNED, Transition.EVICT): S.EVICTED,
    (S.RUNNING, Transition.COMPLETE): S.COMPLETED,
    (S.RUNNING, Transition.FAIL): S.FAILED,
    (S.RUNNING, Transition.RETRY): S.QUEUED,
    (S.RUNNING, Transition.BACK_OFF): S.BACKING_OFF,
    (S.RUNNING, Transition.REASSIGN): S.QUEUED,
    (S.RUNNING, Transition.CANCEL): S.CANCELLED,
    (S.RUNNING, Transition.EVICT): S.EVICTED,
    (S.BACKING_OFF, Transition.WAKE): S.QUEUED,
    (S.BACKING_OFF, Transition.CANCEL): S.CANCELLED,
    (S.EVICTED, Transition.RESTORE): S.QUEUED,
    (S.EVICTED, Transition.CANCEL): S.CANCELLED,
    (S.EVICTED, Transition.FAIL): S.FAILED,
    (S.COMPLETED, Transition.REPLAY): S.WAITING,
    (S.FAILED, Transition.REPLAY): S.WAITING,
    (S.CANCELLED, Transition.REPLAY): S.WAITING,
    (S.SKIPPED, Transition.REPLAY): S.WAITING,
}

HELD_STATES = frozenset({S.ASSIGNED, S.RUNNING})
"""States in which a worker holds the attempt."""


def after(state: TaskRunState, transition: Transition) -> TaskRunState:
    """The state that follows. Raises `EngineBug` for a transition that the table does not have."""
    try:
        return TRANSITIONS[state, transition]
    except KeyError:
        raise EngineBug(f"a task run in state {state.name} cannot {transition.name}") from None


def after_or_none(state: TaskRunState, transition: Transition) -> TaskRunState | None:
    """The state that follows, or None when the transition is to be ignored in this state."""
    return TRANSITIONS.get((state, transition))


def run_state(states: Iterable[TaskRunState]) -> TaskRunState:
    """The final state of a run whose tasks have all ended (behaviour-core 6.11).

    FAILED if any failed, else CANCELLED if any was cancelled, else COMPLETED.
    """
    found = set(states)
    if S.FAILED in found:
        return S.FAILED
    return S.CANCELLED if S.CANCELLED in found else S.COMPLETED


def is_final(state: int) -> bool:
    """Whether a task run in this state has ended."""
    return state in FINAL_STATES
