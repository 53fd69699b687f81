"""Settings of what tenants may use and how long their data is kept. Read by `config`; pure."""

from dataclasses import dataclass
from types import MappingProxyType

from broadaxe_actors.resource_limits import Limits, Resource, ResourceLimit
from broadaxe_gateway.settings import SettingReader

HOUR_US = 3_600_000_000
LONGEST_US = 10 * 365 * 24 * HOUR_US
UNLIMITED = -1
MOST = 1_000_000_000_000

_DEFAULTS: dict[Resource, tuple[int, int, int | None]] = {
    Resource.WORKER: (4, 2, None),
    Resource.WORKER_SLOT: (4_000, 3_000, None),
    Resource.EVENT: (1_000, 750, 24 * HOUR_US),
    Resource.TASK_RUN: (2_000, 1_500, 24 * HOUR_US),
    Resource.CRON: (5, 2, None),
    Resource.SCHEDULE: (1_000, 750, None),
    Resource.INCOMING_WEBHOOK: (5, 4, None),
}
"""Limit, the value from which on the log warns, and the window in microseconds, None for how many there are at a time."""


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """How long ended runs and events are kept."""

    is_enabled: bool = True
    """SERVER_ENABLE_DATA_RETENTION: false deletes nothing."""
    has_workers: bool = False
    """SERVER_ENABLE_WORKER_RETENTION: true deletes workers that are gone for as long, too."""
    period_us: int = 720 * HOUR_US
    """SERVER_LIMITS_DEFAULT_TENANT_RETENTION_PERIOD, such as 720h, of tenants without a period of their own."""


def duration_text(us: int) -> str:
    """As settings have durations, such as `720h` or `1h30m`."""
    hours, rest = divmod(us, HOUR_US)
    minutes, rest = divmod(rest, 60_000_000)
    parts = [f"{hours}h"] if hours else []
    parts += [f"{minutes}m"] if minutes else []
    parts += [f"{rest / 1_000_000:g}s"] if rest or not parts else []
    return "".join(parts)


def read_retention(reader: SettingReader) -> RetentionConfig:
    default = RetentionConfig()
    period = reader.duration(
        "SERVER_LIMITS_DEFAULT_TENANT_RETENTION_PERIOD", low_us=HOUR_US, high_us=LONGEST_US
    )
    is_enabled = reader.flag("SERVER_ENABLE_DATA_RETENTION")
    return RetentionConfig(
        is_enabled=default.is_enabled if is_enabled is None else is_enabled,
        has_workers=reader.flag("SERVER_ENABLE_WORKER_RETENTION") or False,
        period_us=default.period_us if period is None else period,
    )


def read_limits(reader: SettingReader) -> Limits:
    """What each tenant may use: SERVER_LIMITS_DEFAULT_<RESOURCE>_LIMIT, ..._ALARM_LIMIT and ..._WINDOW; empty unless SERVER_ENFORCE_LIMITS."""
    found: dict[Resource, ResourceLimit] = {}
    for resource, (limit, alarm, usual_window) in _DEFAULTS.items():
        setting = f"SERVER_LIMITS_DEFAULT_{resource}_LIMIT"
        given = reader.integer(setting, low=UNLIMITED, high=MOST)
        alarm_given = reader.integer(
            f"SERVER_LIMITS_DEFAULT_{resource}_ALARM_LIMIT", low=UNLIMITED, high=MOST
        )
        window = usual_window
        if usual_window is not None:
            name = f"SERVER_LIMITS_DEFAULT_{resource}_WINDOW"
            window = reader.duration(name, low_us=1_000_000, high_us=LONGEST_US) or usual_window
        most = limit if given is None else given
        if alarm_given is None:
            # The default alarm of a limit that is lower than it would never be heard.
            alarm_given = min(alarm, most)
        if most != UNLIMITED:
            found[resource] = ResourceLimit(
                resource, most, None if alarm_given == UNLIMITED else alarm_given, window, setting
            )
    is_enforced = reader.flag("SERVER_ENFORCE_LIMITS") or False
    return MappingProxyType(found if is_enforced else {})
