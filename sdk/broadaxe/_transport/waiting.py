"""Who waits for which run: one dictionary, no task or future a run. Lives on the transport's loop."""

from collections.abc import Sequence
from typing import Any

from broadaxe._transport.base import Gather

Place = tuple[Gather, int]


class Waiting:
    """Maps run ids to places in gathers; nearly always one place a run."""

    __slots__ = ("_places",)

    def __init__(self) -> None:
        self._places: dict[str, Place | list[Place]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._places

    def ids(self) -> list[str]:
        return list(self._places)

    def add(self, run_ids: Sequence[str], gather: Gather, offset: int = 0) -> None:
        places = self._places
        for index, run_id in enumerate(run_ids, offset):
            known = places.get(run_id)
            if known is None:
                places[run_id] = (gather, index)
            elif isinstance(known, list):
                known.append((gather, index))
            else:
                places[run_id] = [known, (gather, index)]

    def remove(self, run_ids: Sequence[str], gather: Gather) -> list[str]:
        """Take this gather's places away; returns the ids for which nobody waits any more."""
        idle = []
        for run_id in run_ids:
            known = self._places.get(run_id)
            if known is None:
                continue
            rest = [
                place for place in (known if isinstance(known, list) else [known]) if place[0] is not gather
            ]
            if rest:
                self._places[run_id] = rest
            else:
                del self._places[run_id]
                idle.append(run_id)
        return idle

    def deliver(self, run_id: str, finished: Any) -> None:
        """A result that nobody waits for is dropped: asking again gets it again."""
        known = self._places.pop(run_id, None)
        if known is None:
            return
        if isinstance(known, list):
            for gather, index in known:
                gather.deliver(index, finished)
        else:
            known[0].deliver(known[1], finished)

    def fail_all(self, error: BaseException) -> None:
        places, self._places = self._places, {}
        for known in places.values():
            for gather, _ in known if isinstance(known, list) else (known,):
                gather.fail(error)

    def fail(self, run_id: str, error: BaseException) -> None:
        known = self._places.pop(run_id, None)
        if known is not None:
            for gather, _ in known if isinstance(known, list) else (known,):
                gather.fail(error)
