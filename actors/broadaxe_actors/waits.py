"""What a task run in the second stage of its conditions waits for, and what has come. Pure.

Stored with the task run as JSON text, so that a sleep keeps its deadline over a restart and an event that counted is not asked for again.
A sleep is over by the clock alone; an event is written down when it counts.
"""

import json
from collections.abc import Iterable

from broadaxe_actors.gates import Action, Plan


class Waits:
    """See the module."""

    __slots__ = ("_events", "is_checked", "since", "until")

    def __init__(self, since: int, *, is_checked: bool = True) -> None:
        self.since = since
        """When the second stage began, microseconds since the epoch."""
        self.is_checked = is_checked
        """Events that were pushed before this wait have been looked at. Nothing is decided before."""
        self.until: int | None = None
        """When the waiting was decided: sleeps that would end later no longer count."""
        self._events: dict[int, str] = {}
        """Payload (JSON text) by number of the wait that it ended."""

    def meet(self, number: int, payload: str) -> bool:
        """An event ends a wait; False if one has already."""
        if number in self._events:
            return False
        self._events[number] = payload
        return True

    def met(self, plan: Plan, now: int) -> set[int]:
        """Numbers of the waits that are over."""
        end = now if self.until is None else self.until
        over = set(self._events)
        over.update(
            rule.number
            for rule in plan.waits
            if rule.sleep_for is not None and self.since + rule.sleep_us <= end
        )
        return over

    def next_deadline(self, plan: Plan, now: int) -> int | None:
        """When the next sleep is over, or None."""
        return min(
            (
                self.since + rule.sleep_us
                for rule in plan.waits
                if rule.sleep_for is not None and self.since + rule.sleep_us > now
            ),
            default=None,
        )

    def open_events(self, plan: Plan) -> Iterable[int]:
        """Numbers of the event waits that nothing has ended."""
        return (
            rule.number
            for rule in plan.waits
            if rule.event_key is not None and rule.number not in self._events
        )

    def triggers(self, plan: Plan) -> str:
        """JSON object text of what let the task start, by readable data key (behaviour-core 2.7.2)."""
        over = self.met(plan, self.since)
        parts: dict[str, str] = {}
        for rule in plan.waits:
            if rule.number not in over or rule.action != Action.QUEUE:
                continue
            if rule.sleep_for is not None:
                parts[rule.data_key] = json.dumps({"sleep_duration": rule.sleep_for})
            else:
                parts[rule.data_key] = self._events[rule.number]
        return (
            "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in parts.items()) + "}"
            if parts
            else ""
        )

    def to_json(self) -> str:
        """The stored form; payloads are spliced in, not parsed."""
        events = ",".join(f'"{number}":{payload}' for number, payload in self._events.items())
        until = "null" if self.until is None else self.until
        return f'{{"since":{self.since},"until":{until},"events":{{{events}}}}}'

    @classmethod
    def from_json(cls, text: str) -> "Waits":
        """What `to_json` wrote. Events of the time when nobody listened have yet to be looked at."""
        raw = json.loads(text)
        waits = cls(raw["since"], is_checked=False)
        waits.until = raw["until"]
        waits._events = {
            int(number): json.dumps(payload, separators=(",", ":"))
            for number, payload in raw["events"].items()
        }
        return waits
