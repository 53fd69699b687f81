"""What becomes of an attempt that failed: end, retry at once, or retry after a pause. Pure.

Source: behaviour-core 6.7. The pause before the k-th retry is `min(maximum, factor ** k)` seconds, without jitter.
"""

from broadaxe_actors.definitions import TaskDefinition

DEFAULT_BACKOFF_MAX_SECONDS = 86_400


def has_retry_left(task: TaskDefinition, app_retries: int, *, should_not_retry: bool) -> bool:
    """Whether a failure after `app_retries` retries is retried once more."""
    return not should_not_retry and app_retries < task.retries


def backoff_us(task: TaskDefinition, retry_number: int) -> int:
    """Microseconds to wait before the `retry_number`-th retry (from 1); 0 without a factor."""
    if task.backoff_factor is None:
        return 0
    maximum = task.backoff_max_seconds or DEFAULT_BACKOFF_MAX_SECONDS
    try:
        seconds = min(float(maximum), task.backoff_factor**retry_number)
    except OverflowError:
        seconds = float(maximum)
    return round(seconds * 1_000_000)
