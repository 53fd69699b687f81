"""Rate limits as they come over the wire, and the answers. Pure; raises `Refused`."""

from broadaxe.wire import workflows_pb2 as wire
from broadaxe_actors.rate_limits import WINDOWS_US, key_problem
from broadaxe_gateway.rpc.convert.checks import check_time, refuse, shown


def check_key(key: str) -> str:
    """The key of a rate limit, as it is."""
    problem = key_problem(key)
    if problem is not None:
        raise refuse(f"the key of a rate limit {problem}" + (f": {shown(key)}" if key else ": give one"))
    return key


def put_rate_limit(request: wire.PutRateLimitRequest) -> tuple[str, int, int]:
    """Key, limit, and length of the window."""
    key = check_key(request.key)
    if request.limit < 0:
        raise refuse(f"rate limit {shown(key)}: limit is {request.limit}, expected 0 or more")
    descriptor = wire.RateLimitDuration.DESCRIPTOR.values_by_number.get(request.duration)
    if descriptor is None:
        allowed = ", ".join(f"{name} ({number})" for number, name in enumerate(WINDOWS_US))
        raise refuse(f"rate limit {shown(key)}: duration {request.duration} is not known, expected {allowed}")
    return key, request.limit, WINDOWS_US[descriptor.name]


def rate_limit_put() -> wire.PutRateLimitResponse:
    return wire.PutRateLimitResponse()


def pause_rate_limit(request: wire.PauseRateLimitRequest) -> tuple[str, int]:
    """Key, and until when."""
    key = check_key(request.key)
    if not request.HasField("paused_until"):
        raise refuse(f"rate limit {shown(key)}: paused_until is missing: give the time until when to pause")
    return key, check_time(request.paused_until, f"rate limit {shown(key)}: paused_until")


def rate_limit_paused(until: int) -> wire.PauseRateLimitResponse:
    response = wire.PauseRateLimitResponse()
    response.paused_until.FromMicroseconds(until)
    return response
