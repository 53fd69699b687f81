"""Limits of the gRPC side: sizes, rates, and how much may wait; and the channel options that follow from them.

Pure, but for the clock that a caller passes.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MEBIBYTE = 1024 * 1024
MAX_RUNS_PER_BULK = 1_000
MAX_EVENTS_PER_BULK = 1_000
DISPATCHER_RATE_FACTOR = 10
"""Workers report every task by a call of their own, so their service is allowed this much more (behaviour-core 1.5)."""


@dataclass(frozen=True, slots=True)
class GrpcLimits:
    """What one gRPC server allows."""

    max_message_bytes: int = 4 * MEBIBYTE
    """`SERVER_GRPC_MAX_MSG_SIZE`: the largest message either way."""
    requests_per_second: float = 1_000
    """`SERVER_GRPC_RATE_LIMIT`: calls a second of one API token, ten times that for the dispatcher; 0 is no limit."""
    worker_backlog: int = 4_096
    """Assignments that may wait for one worker's stream; past it the engine assigns no more to that worker."""
    stream_backlog: int = 50_000
    """Results or events that may wait for one client's stream; past it the stream ends."""
    stream_backlog_bytes: int = 64 * MEBIBYTE
    """The same in bytes of payload."""
    held_report_bytes: int = 128 * MEBIBYTE
    """Payload of reports that may wait for their commit; past it unary reports are refused and streams not read."""


def server_options(limits: GrpcLimits) -> list[tuple[str, int]]:
    """Channel options of the server.

    Clients ping every 10 s, also without calls, and are let; a ping strike would end their connection (behaviour-core 1.4).
    Address reuse is off, so that a port in use is an error rather than two servers sharing it.
    """
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", limits.max_message_bytes),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.http2.max_pings_without_data", 0),
        # A worker whose task holds the interpreter for long is alive all the same.
        ("grpc.keepalive_timeout_ms", 60_000),
        ("grpc.so_reuseport", 0),
    ]


class RateLimiter:
    """A token bucket a key: `rate` a second, with `burst` saved up; one second's worth if not given.

    Holds the buckets of the `max_keys` keys used last, so that memory stays bounded; a forgotten key starts full.
    """

    def __init__(
        self,
        rate: float,
        monotonic: Callable[[], float],
        max_keys: int = 10_000,
        burst: float | None = None,
    ) -> None:
        self.rate = rate
        self._burst = rate if burst is None else burst
        self._monotonic = monotonic
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def try_take(self, key: str) -> bool:
        """Whether one more call of `key` is allowed now."""
        if self.rate <= 0:
            return True
        now = self._monotonic()
        level, since = self._buckets.get(key, (self._burst, now))
        level = min(self._burst, level + (now - since) * self.rate)
        is_allowed = level >= 1
        self._buckets[key] = (level - 1 if is_allowed else level, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return is_allowed
