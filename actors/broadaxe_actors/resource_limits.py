"""Limits of what a tenant may use: how much of a resource in a window, or how many of it at a time. Pure.

Off unless an operator asks for them (`SERVER_ENFORCE_LIMITS`). Whoever makes a resource counts it: `RunTracker` events and task runs,
`WorkerRegistry` workers and their slots, others what stands in the record anyway. Counters live in memory; windows begin at multiples of
their length since 1970, a day's at midnight UTC, so that after a restart the record tells what was used of the one under way. A request past a
limit is refused as a whole.
"""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from broadaxe_actors.errors import Code, Refused

logger = logging.getLogger(__name__)


class Resource(StrEnum):
    """What can be limited: `TenantResource` of the wire."""

    WORKER = "WORKER"
    WORKER_SLOT = "WORKER_SLOT"
    EVENT = "EVENT"
    TASK_RUN = "TASK_RUN"
    CRON = "CRON"
    SCHEDULE = "SCHEDULE"
    INCOMING_WEBHOOK = "INCOMING_WEBHOOK"


class ResourceLimit(NamedTuple):
    resource: Resource
    limit: int
    alarm: int | None
    """From which value on the log warns; None: never."""
    window_us: int | None
    """None limits how many there are at a time."""
    setting: str
    """What an operator raises."""


Limits = Mapping[Resource, ResourceLimit]
"""Resources that are not there are not limited."""


class ResourceUsage(NamedTuple):
    """A limit, and what is used of it."""

    limit: ResourceLimit
    value: int
    since: int | None
    """When the window under way began."""


class Meter:
    """What one tenant uses of one resource."""

    __slots__ = ("_is_alarmed", "_tenant_id", "_value", "_window", "limit")

    def __init__(self, limit: ResourceLimit, tenant_id: str) -> None:
        self.limit = limit
        self._tenant_id = tenant_id
        self._value = 0
        self._window = 0
        """Number of the window that `_value` is of."""
        self._is_alarmed = False

    def value(self, now: int) -> int:
        """What is used by now."""
        window = 0 if self.limit.window_us is None else now // self.limit.window_us
        if window != self._window:
            self._window, self._value, self._is_alarmed = window, 0, False
        return self._value

    def check(self, count: int, now: int) -> None:
        """Raises `Refused` if so much more is too much."""
        value = self.value(now)
        if count and value + count > self.limit.limit:
            raise Refused(Code.RESOURCE_EXHAUSTED, self._refusal(value, count, now))

    def take(self, count: int, now: int) -> None:
        """Use so much more. Raises `Refused` if that is too much."""
        self.check(count, now)
        self.add(count, now)

    def add(self, count: int, now: int) -> None:
        """So much more is used, whether that is too much or not."""
        self._value = self.value(now) + count
        alarm = self.limit.alarm
        if alarm is not None and self._value >= alarm and not self._is_alarmed:
            self._is_alarmed = True
            logger.warning(
                "tenant %s uses %s of at most %s of resource %s%s: requests past the limit (%s) are refused",
                self._tenant_id,
                f"{self._value:,}",
                f"{self.limit.limit:,}",
                self.limit.resource,
                "" if self.limit.window_us is None else f" in {_length(self.limit.window_us)}",
                self.limit.setting,
            )
        elif alarm is not None and self._value < alarm:
            self._is_alarmed = False

    def give_back(self, count: int, now: int) -> None:
        """So much was taken and is not used."""
        self._value = max(0, self.value(now) - count)

    def usage(self, now: int) -> ResourceUsage:
        return ResourceUsage(self.limit, self.value(now), self.began_at(now))

    def began_at(self, now: int) -> int | None:
        """The begin of the window under way."""
        window = self.limit.window_us
        return None if window is None else now // window * window

    def _refusal(self, value: int, count: int, now: int) -> str:
        limit = self.limit
        used = f"tenant {self._tenant_id} has used {value:,} of at most {limit.limit:,} of resource {limit.resource}"
        if limit.window_us is None:
            return (
                f"{used}, and {count:,} more would be too much: remove some, or have {limit.setting} raised"
            )
        ends_at = (now // limit.window_us + 1) * limit.window_us
        at = datetime.fromtimestamp(ends_at // 1_000_000, UTC).isoformat().replace("+00:00", "Z")
        return (
            f"{used} in {_length(limit.window_us)}, and {count:,} more would be too much: try again after {at}, "
            f"or have {limit.setting} raised"
        )


def _length(window_us: int) -> str:
    for unit, us in (("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000)):
        if window_us % us == 0:
            return f"{window_us // us}{unit}"
    return f"{window_us // 1000}ms"


def window_text(window_us: int | None) -> str | None:
    """The length of a window as it is set, such as `24h`."""
    return None if window_us is None else _length(window_us)


def check_room(limits: Limits, resource: Resource, tenant_id: str, present: int, more: int = 1) -> None:
    """For resources of which the record tells how many there are. Raises `Refused` if so many more are too many."""
    limit = limits.get(resource)
    if limit is None:
        return
    meter = Meter(limit, tenant_id)
    meter._value = present  # noqa: SLF001 - it is ours
    meter.check(more, 0)


class Usage:
    """What one tenant uses of several resources, counted by one actor. False when none of them is limited."""

    def __init__(self, limits: Limits, tenant_id: str, *resources: Resource) -> None:
        self._meters = {
            resource: Meter(limits[resource], tenant_id) for resource in resources if resource in limits
        }

    def __bool__(self) -> bool:
        return bool(self._meters)

    def take(self, wanted: Mapping[Resource, int], now: int) -> None:
        """Use all of it, or raise `Refused` and use nothing."""
        found = [(meter, wanted.get(resource, 0)) for resource, meter in self._meters.items()]
        for meter, count in found:
            meter.check(count, now)
        for meter, count in found:
            if count:
                meter.add(count, now)

    def add(self, resource: Resource, count: int, now: int) -> None:
        """So much more is used, whether that is too much or not."""
        meter = self._meters.get(resource)
        if meter is not None:
            meter.add(count, now)

    def give_back(self, wanted: Mapping[Resource, int], now: int) -> None:
        """So much was taken and is not used."""
        for resource, count in wanted.items():
            meter = self._meters.get(resource)
            if meter is not None and count:
                meter.give_back(count, now)

    def began_at(self, resource: Resource, now: int) -> int:
        """The begin of the window under way of a resource that has one; `now` for others."""
        meter = self._meters.get(resource)
        found = None if meter is None else meter.began_at(now)
        return now if found is None else found

    def most(self) -> int:
        """The highest of the limits."""
        return max((meter.limit.limit for meter in self._meters.values()), default=0)

    def usages(self, now: int) -> tuple[ResourceUsage, ...]:
        return tuple(meter.usage(now) for meter in self._meters.values())
