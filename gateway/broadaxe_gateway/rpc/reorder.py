"""Stream chunks of a followed run put into order by their index (behaviour-core 3.2.3). Pure: the caller brings the time.

Indexes count from 0 for each (task run, attempt). The expected one passes at once with its successors that are held; a higher one
is held for at most `HOLD_SECONDS`, after which what is held passes in order. An index that was passed over already passes at once.
"""

from dataclasses import dataclass, field

from broadaxe_actors.messages import RunEvent, RunEventKind

HOLD_SECONDS = 5.0


@dataclass(slots=True)
class _Line:
    expected: int = 0
    held: dict[int, RunEvent] = field(default_factory=dict)
    deadline: float = 0.0


class ReorderBuffer:
    """The buffer of one subscription."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int | None], _Line] = {}

    def add(self, event: RunEvent, now: float) -> list[RunEvent]:
        """Events that pass now, in order. Whatever ends a task or run lets go of what was held for it first."""
        if event.is_run:
            return [*self._flush(event.run_id, None), event]
        if event.kind is not RunEventKind.STREAM:
            if event.kind is RunEventKind.STARTED:
                return [event]
            return [*self._flush(event.run_id, event.resource_id), event]
        if event.index is None:
            return [event]
        line = self._lines.setdefault((event.resource_id, event.attempt), _Line())
        if event.index == 0 and event.attempt is None and line.expected > 0:
            # Attempts are not told apart here: the count has started again.
            passed = _drain(line)
            line.expected = 0
            return [*passed, *_advance(line, event)]
        if event.index <= line.expected:
            return _advance(line, event)
        if not line.held:
            line.deadline = now + HOLD_SECONDS
        line.held[event.index] = event
        return []

    def deadline(self) -> float | None:
        """When `expire` must be called next, None if nothing is held."""
        return min((line.deadline for line in self._lines.values() if line.held), default=None)

    def expire(self, now: float) -> list[RunEvent]:
        """Events held long enough, in order."""
        passed: list[RunEvent] = []
        for line in self._lines.values():
            if line.held and line.deadline <= now:
                passed += _drain(line)
        return passed

    def _flush(self, run_id: str, task_run_id: str | None) -> list[RunEvent]:
        passed: list[RunEvent] = []
        for key, line in list(self._lines.items()):
            is_meant = key[0] == task_run_id
            if task_run_id is None:
                is_meant = any(event.run_id == run_id for event in line.held.values())
            if is_meant:
                passed += _drain(line)
                del self._lines[key]
        return passed


def _advance(line: _Line, event: RunEvent) -> list[RunEvent]:
    passed = [event]
    if event.index == line.expected:
        line.expected += 1
        while line.expected in line.held:
            passed.append(line.held.pop(line.expected))
            line.expected += 1
    return passed


def _drain(line: _Line) -> list[RunEvent]:
    passed = [line.held[index] for index in sorted(line.held)]
    if passed:
        line.expected = max(line.held) + 1
        line.held.clear()
    return passed
