"""Settings that the actors of a shard need. Read once at the edge, passed down; nothing here looks at the environment."""

from dataclasses import dataclass, field

from broadaxe_actors.resource_limits import Limits

DEFAULT_BATCH_BYTES = 4_000_000
"""What official workers take in one message, with room for names and ids (behaviour-core 6.15)."""


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """Times are seconds."""

    max_internal_retries: int = 10
    """Reassignments of a task run after worker losses before it fails (`SERVER_MAX_INTERNAL_RETRY_COUNT`)."""
    worker_stale_seconds: float = 5.0
    """Age of the last heartbeat from which a worker gets nothing new (behaviour-core 2.5)."""
    worker_lost_seconds: float = 30.0
    """Age of the last heartbeat from which its attempts are taken from a worker (behaviour-core 6.7)."""
    undelivered_seconds: float = 10.0
    """How long an attempt may stay without a sign of life after its unary worker's stream broke."""
    queue_window_high: int = 20_000
    queue_window_low: int = 10_000
    queue_page: int = 500
    priority_ageing: int = 0
    """Task runs of higher priorities after which an action takes one of a lower that waits (`SERVER_QUEUE_PRIORITY_AGEING`); 0: never."""
    batch_bytes: int = DEFAULT_BATCH_BYTES
    """Payloads that the start of one batch may carry; below the message limit."""
    is_log_ingestion_enabled: bool = True
    limits: Limits = field(default_factory=dict)
    """What each tenant may use; empty when limits are not enforced."""
