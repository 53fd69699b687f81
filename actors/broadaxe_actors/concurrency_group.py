"""`ConcurrencyGroup`: the places of one rendered key of one concurrency entry. It decides who is admitted, and who has to go.

One per key, activated by the first who asks and retired when nobody holds a place or waits. Nothing here is journalled: recovery derives it
from task rows, holders first. `RunTracker` asks for what is committed only, and says that a place is free once the end of who had it is.
May touch the runtime, `concurrency`, `admission`.
"""

from collections.abc import Sequence
from typing import Any

from broadaxe_actors.admission import GroupKey, Strategy
from broadaxe_actors.concurrency import Ask, Group
from broadaxe_actors.runtime import Actor, Handle


class ConcurrencyGroup(Actor):
    """See the module."""

    def __init__(self, key: GroupKey, tracker: "Handle[Any]") -> None:
        super().__init__()
        self._key = key
        self._tracker = tracker
        self._group: Group | None = None

    def ask(self, strategy: Strategy, asks: Sequence[Ask]) -> None:
        """Members ask for places, in order; the newest definition of a shared entry counts."""
        group = self._with(strategy)
        displaced: list[Ask] = []
        admitted: list[Ask] = []
        for item in asks:
            displaced += group.ask(item)
            admitted += group.admit()
        if displaced:
            gone = tuple((item.member_id, item.ticket) for item in displaced)
            self._tracker.displaced.send(self._key, strategy, gone)
        self._tell_admitted(admitted)

    def hold(self, strategy: Strategy, asks: Sequence[Ask]) -> None:
        """Members that run already."""
        group = self._with(strategy)
        for item in asks:
            group.hold(item)

    def leave(self, member_ids: Sequence[str]) -> None:
        """Members that hold their places, or wait for them, no more."""
        if self._group is None:
            self.retire()  # nobody was left, and this message activated it again
            return
        for member_id in member_ids:
            self._group.leave(member_id)
        self._tell_admitted(self._group.admit())

    def _with(self, strategy: Strategy) -> Group:
        if self._group is None:
            self._group = Group(strategy)
        self._group.strategy = strategy
        return self._group

    def _tell_admitted(self, admitted: Sequence[Ask]) -> None:
        if admitted:
            told = tuple((item.member_id, item.ticket) for item in admitted)
            self._tracker.admitted.send(self._key, told)
        if not self._group:
            self.retire()
