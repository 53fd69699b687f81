"""Shapes of task stats, queue metrics, and counts over time (rest 2, 3)."""

from pydantic import Field, RootModel

from broadaxe_gateway.http.rest.models.common import Wire
from broadaxe_gateway.http.rest.models.runs import TaskStatus


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


class RunningDetailCount(Wire):
    """`V1RunningDetailCount`: of what runs."""

    evicted: int
    on_worker: int


class TaskRunMetric(Wire):
    """`V1TaskRunMetric`: how many task runs have a status."""

    status: TaskStatus
    count: int
    running_detail_count: RunningDetailCount | None = None


class TaskRunMetrics(RootModel[list[TaskRunMetric]]):
    """One of each status, in the order in which clients expect them."""


class TaskPointMetric(Wire):
    """`V1TaskPointMetric`: what ended within a stretch of time, told by its beginning."""

    time: str
    succeeded: int = Field(alias="SUCCEEDED")
    failed: int = Field(alias="FAILED")


class TaskPointMetrics(Wire):
    """`V1TaskPointMetrics`."""

    results: list[TaskPointMetric]


class LogsPointMetric(Wire):
    """`V1LogsPointMetric`: what was logged within a stretch of time."""

    time: str
    debug: int = Field(alias="DEBUG")
    info: int = Field(alias="INFO")
    warn: int = Field(alias="WARN")
    error: int = Field(alias="ERROR")


class LogsPointMetrics(Wire):
    """`V1LogsPointMetrics`."""

    results: list[LogsPointMetric]
