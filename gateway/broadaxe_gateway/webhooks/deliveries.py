"""From a delivery to an event: found, rated, checked, read, named, and pushed as an ordinary event (rest 9.2).

May touch the directory and the evaluator. Expressions see the parsed payload, of which only what they name is converted; those that may
take long go to a process of this module's own, so that senders never stand before the engine's expressions.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from broadaxe_actors.cel import AnyEvaluator, Environment, EvaluationFailed, Expression
from broadaxe_actors.errors import Code, Refused
from broadaxe_actors.messages import EventsPushed, NewEvent, PushEvents
from broadaxe_gateway.rpc.convert.checks import OFF_LOOP_BYTES
from broadaxe_gateway.rpc.limits import RateLimiter
from broadaxe_gateway.sealing import CannotOpen
from broadaxe_gateway.webhooks.bodies import Payload, challenge_of, read_body
from broadaxe_gateway.webhooks.definition import Webhook
from broadaxe_gateway.webhooks.directory import WebhookDirectory
from broadaxe_gateway.webhooks.refusals import RefusalLog, Stage
from broadaxe_gateway.webhooks.signatures import DeliveryRefused, Headers, check_delivery

logger = logging.getLogger("broadaxe.webhooks")

RATE = 50.0
BURST = 100.0
"""Deliveries a second of one webhook, and how many may come at once."""
MAX_KEY_BYTES = 2_000
"""Of an event key or scope: an index entry has room for so much."""


class EngineLink(Protocol):
    """The part of the hub that deliveries use."""

    async def ask(self, message: type, tenant_id: str, *fields: object) -> Any: ...


class Delivered(NamedTuple):
    """The event that a delivery became."""

    event_id: str
    key: str
    scope: str | None
    payload: bytes
    at: int


class Deliveries:
    """Takes deliveries, of all webhooks. Remembers why it did not."""

    def __init__(
        self,
        directory: WebhookDirectory,
        engine: EngineLink,
        evaluator: AnyEvaluator,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._engine = engine
        self._evaluator = evaluator
        self._now = now
        self._limiter = RateLimiter(RATE, monotonic, burst=BURST)
        self.refusals = RefusalLog()

    async def find(self, tenant_id: str, name: str) -> Webhook | None:
        """The webhook of a delivery, which is counted by this: call it before reading the body. None for an unknown one.

        Raises `DeliveryRefused` past the rate, `TooManyLooks`, and `Unavailable` for one that is not known here yet.
        """
        try:
            webhook = await self._directory.find(tenant_id, name)
        except CannotOpen as error:
            logger.error("%s", error)  # noqa: TRY400 - the text says all
            text = "the webhook's secret cannot be opened: the server's log names the setting"
            raise DeliveryRefused(HTTPStatus.INTERNAL_SERVER_ERROR, text) from error
        if webhook is not None and not self._limiter.try_take(f"{tenant_id}/{name}"):
            text = f"webhook {name!r} takes {RATE:g} deliveries a second, {BURST:g} at once: send them later"
            self._note(webhook, Stage.LIMIT, HTTPStatus.TOO_MANY_REQUESTS, text)
            raise DeliveryRefused(HTTPStatus.TOO_MANY_REQUESTS, text)
        return webhook

    async def take(self, webhook: Webhook, headers: Headers, body: bytes) -> Delivered | str:
        """The event of a delivery, committed; or the challenge to be answered, which makes none.

        Raises `DeliveryRefused`, and `Refused` as the engine refuses events.
        """
        stage = Stage.VALIDATION
        try:
            if len(body) > OFF_LOOP_BYTES:
                payload = await asyncio.to_thread(self._read, webhook, headers, body)
            else:
                payload = self._read(webhook, headers, body)
            if isinstance(payload, str):
                return payload
            values = {"input": payload.value, "headers": headers}
            stage = Stage.EVENT_KEY
            key = await self._evaluate(webhook.event_key, values, "the event key expression")
            stage = Stage.SCOPE
            scope = (
                None
                if webhook.scope is None
                else await self._evaluate(webhook.scope, values, "the scope expression")
            )
            stage = Stage.LIMIT
            event = NewEvent(key=key, payload=payload.text, scope=scope, webhook=webhook.name)
            pushed: EventsPushed = await self._engine.ask(PushEvents, webhook.tenant_id, (event,))
        except _BodyRefused as refused:
            self._note(webhook, Stage.BODY, refused.status, refused.message)
            raise
        except DeliveryRefused as refused:
            self._note(webhook, stage, refused.status, refused.message)
            raise
        except Refused as refused:
            if refused.code is Code.RESOURCE_EXHAUSTED:
                self._note(webhook, stage, HTTPStatus.TOO_MANY_REQUESTS, refused.message)
            raise
        return Delivered(pushed.event_ids[0], key, scope, payload.text, pushed.created_at)

    def _read(self, webhook: Webhook, headers: Headers, body: bytes) -> Payload | str:
        challenge = challenge_of(webhook.source, body)
        if challenge is not None:
            return challenge
        check_delivery(webhook.source, webhook.auth, headers, body, self._now())
        try:
            return read_body(webhook.source, headers.get("content-type", ""), body, webhook.static_payload)
        except DeliveryRefused as refused:
            raise _BodyRefused(refused.status, refused.message) from refused

    async def _evaluate(self, expression: Expression, values: Mapping[str, Any], what: str) -> str:
        try:
            if expression.is_cheap(values):
                value = expression.evaluate(values)
            else:
                value = await self._evaluator.evaluate_apart(expression, values)
        except EvaluationFailed as error:
            raise DeliveryRefused(
                HTTPStatus.BAD_REQUEST, f"{what} must evaluate to a string: {error}"
            ) from error
        text = str(value)
        if not text and expression.environment is Environment.WEBHOOK_EVENT_KEY:
            raise DeliveryRefused(HTTPStatus.BAD_REQUEST, f"{what} gave an empty key")
        size = len(text.encode())
        if size > MAX_KEY_BYTES:
            raise DeliveryRefused(
                HTTPStatus.BAD_REQUEST, f"{what} gave {size:,} bytes, expected at most {MAX_KEY_BYTES:,}"
            )
        return text

    def _note(self, webhook: Webhook, stage: Stage, status: int, message: str) -> None:
        at = int(self._now() * 1_000_000)
        if self.refusals.add(webhook.tenant_id, webhook.name, at, stage, status, message):
            logger.info(
                "webhook %r of tenant %s refused a delivery (%s, %d): %s",
                webhook.name,
                webhook.tenant_id,
                stage,
                status,
                message,
            )


class _BodyRefused(DeliveryRefused):
    """The body is at fault, not who sent it."""
