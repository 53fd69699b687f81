"""Shapes of log lines (rest 2)."""

from enum import StrEnum

from broadaxe_gateway.http.rest.models.common import Pagination, Raw, Wire


class LogLevel(StrEnum):
    """`V1LogLineLevel`."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"


class Direction(StrEnum):
    """`V1LogLineOrderByDirection`."""

    ASC = "ASC"
    DESC = "DESC"


class LogLine(Wire):
    """`V1LogLine`."""

    created_at: str
    message: str
    metadata: Raw
    task_external_id: str
    task_display_name: str | None = None
    retry_count: int
    attempt: int
    level: LogLevel | None = None


class LogLineList(Wire):
    """`V1LogLineList`; its pages are always zero, as clients page by time."""

    pagination: Pagination
    rows: list[LogLine]
