"""How many crons and scheduled runs a tenant may have: the record is asked before one is made. A part of `Timetable`.

Nothing happens here unless the tenant has such limits. Requests are looked at one after the other; a cron that is still on its way to the record is
not counted yet, so that a few at once may pass the limit. Crons declared with a workflow count, and are never refused.
"""

from collections import deque
from typing import Any

from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import CreateCron, Refusal, ScheduleRuns
from broadaxe_actors.resource_limits import Limits, Resource, check_room
from broadaxe_actors.runtime import Actor, Handle
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.store import ShardStore


class TimerLimits(Actor):
    """See the module."""

    _tenant_id: str
    _store: ShardStore

    def _limit(self, limits: Limits) -> None:
        self._limits = limits
        self._to_count: deque[tuple[Handle[Any], CreateCron | ScheduleRuns]] = deque()
        self._is_counting = False

    def _must_be_counted(self, message: Any) -> bool:
        kind = type(message)
        return (kind is CreateCron and Resource.CRON in self._limits) or (
            kind is ScheduleRuns and Resource.SCHEDULE in self._limits
        )

    def _count(self, gateway: "Handle[Any]", message: CreateCron | ScheduleRuns) -> None:
        """Do it if there is room for it."""
        self._to_count.append((gateway, message))
        if not self._is_counting:
            self.count_next()

    def count_next(self) -> None:
        """Look at the next request."""
        self._is_counting = bool(self._to_count)
        if self._is_counting:
            self.fetch(self._store.count_timers, self._tenant_id, then=self.me.counted)

    def counted(self, _context: object, counts: tuple[int, int] | None, error: BaseException | None) -> None:
        """The record says how many crons, and scheduled runs to come, the tenant has."""
        gateway, message = self._to_count.popleft()
        if error is not None:
            if not isinstance(error, Unavailable):
                raise error
            refused: Refused | None = Refused(Code.UNAVAILABLE, str(error))
        else:
            assert counts is not None
            refused = self._room_for(message, *counts)
        if refused is None:
            self._do_counted(gateway, message)
        else:
            gateway.deliver.send((Refusal(message.request_id, refused.code, refused.message),))
        self.send_after_commit(self.me.count_next)

    def _room_for(self, message: CreateCron | ScheduleRuns, crons: int, scheduled: int) -> Refused | None:
        try:
            if isinstance(message, CreateCron):
                check_room(self._limits, Resource.CRON, self._tenant_id, crons)
            else:
                count = len(message.times)
                check_room(self._limits, Resource.SCHEDULE, self._tenant_id, scheduled, count)
        except Refused as refused:
            return refused
        return None

    def _do_counted(self, gateway: "Handle[Any]", message: Any) -> None:
        raise NotImplementedError
