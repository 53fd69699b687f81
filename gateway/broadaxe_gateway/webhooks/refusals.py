"""Why deliveries were refused lately, so that a user can see it. In memory: who guesses at a public URL must cost no SQL.

The last few of each webhook, since the server was started; those of the webhooks that were refused something last. Texts hold no secret
and nothing of a body.
"""

from collections import OrderedDict, deque
from enum import StrEnum
from typing import NamedTuple

KEPT_EACH = 20
MAX_WEBHOOKS = 1_000
MAX_TEXT_CHARACTERS = 1_000


class Stage(StrEnum):
    """At which step a delivery was refused."""

    VALIDATION = "VALIDATION"
    """Credentials, signature or its time."""
    BODY = "BODY"
    EVENT_KEY = "EVENT_KEY"
    SCOPE = "SCOPE"
    LIMIT = "LIMIT"
    """Too many deliveries, or a limit of the tenant."""


class RefusedDelivery(NamedTuple):
    at: int
    """Microseconds since the epoch."""
    stage: Stage
    status: int
    """Of the HTTP answer."""
    message: str
    repeats: int
    """How often in a row."""


class RefusalLog:
    """The refusals of all webhooks, by tenant and name."""

    def __init__(self) -> None:
        self._by_webhook: OrderedDict[tuple[str, str], deque[RefusedDelivery]] = OrderedDict()

    def add(self, tenant_id: str, name: str, at: int, stage: Stage, status: int, message: str) -> bool:
        """Note a refusal; False if it only repeats the one before."""
        key = (tenant_id, name)
        found = self._by_webhook.setdefault(key, deque(maxlen=KEPT_EACH))
        self._by_webhook.move_to_end(key)
        if len(self._by_webhook) > MAX_WEBHOOKS:
            self._by_webhook.popitem(last=False)
        message = message[:MAX_TEXT_CHARACTERS]
        last = found[-1] if found else None
        if last is not None and (last.stage, last.status, last.message) == (stage, status, message):
            found[-1] = last._replace(at=at, repeats=last.repeats + 1)
            return False
        found.append(RefusedDelivery(at, stage, status, message, 1))
        return True

    def of(self, tenant_id: str, name: str) -> list[RefusedDelivery]:
        """Newest first."""
        return list(reversed(self._by_webhook.get((tenant_id, name), ())))

    def forget(self, tenant_id: str, name: str) -> None:
        self._by_webhook.pop((tenant_id, name), None)
