"""Shapes of task stats and queue metrics (rest 3)."""

from pydantic import RootModel

from broadaxe_gateway.http.rest.models.common import Wire


class ConcurrencyStat(Wire):
    """`ConcurrencyStat`."""

    expression: str
    type: str
    keys: dict[str, int]


class TaskStatusStat(Wire):
    """`TaskStatusStat`; a missing half of a task that was asked for is its total alone."""

    total: int = 0
    queues: dict[str, int] | None = None
    concurrency: list[ConcurrencyStat] | None = None
    oldest: str | None = None
    oldest_excluding_retries: str | None = None


class TaskStat(Wire):
    """`TaskStat`."""

    queued: TaskStatusStat
    running: TaskStatusStat


class TaskStats(RootModel[dict[str, TaskStat]]):
    """By task name, without the workflow's."""


class QueueMetrics(Wire):
    """`TenantStepRunQueueMetrics`: by queue how many wait there, by workflow and strategy how many wait for a place of each key."""

    queues: dict[str, int | dict[str, int]]
