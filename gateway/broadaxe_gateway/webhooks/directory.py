"""The webhooks of the record: made, changed and read here, and cached with their secrets open, so that deliveries cost no SQL.

May touch the store's `WebhookStore` and the sealer. What this process changes counts at once; what another one, or somebody with SQL, has
changed counts after `RECHECK_SECONDS` at most. While Postgres is away what is known stays good. Looks for webhooks that do not exist are
rationed: their URL is public.
"""

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from broadaxe_actors import cel
from broadaxe_actors.errors import Code, Refused
from broadaxe_gateway.rpc.limits import RateLimiter
from broadaxe_gateway.sealing import CannotOpen, Sealer
from broadaxe_gateway.webhooks.definition import (
    AUTH_TYPES,
    MAX_WEBHOOKS,
    Auth,
    Source,
    Webhook,
    auth_from_json,
    auth_to_json,
    check_event_key_expression,
    check_scope_expression,
)
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records_webhooks import WebhookRow
from broadaxe_storage.webhooks import WebhookStore

logger = logging.getLogger("broadaxe.webhooks")

RECHECK_SECONDS = 5.0
MAX_CACHED = 10_000
LOOKS_PER_SECOND = 50
"""For webhooks that were not known, over all tenants."""


class TooManyLooks(Exception):
    """Webhooks that do not exist are asked for too often."""


class _Known(NamedTuple):
    webhook: Webhook | None
    checked_at: float


class Changes(NamedTuple):
    """What may change of a webhook, checked; None leaves it. The two that may be taken away stand for that as empty text."""

    event_key_expression: str | None = None
    scope_expression: str | None = None
    static_payload: str | None = None
    returns_event: bool | None = None


class WebhookDirectory:
    """Lives on one loop. Every method raises `Unavailable` without Postgres, unless it says otherwise."""

    def __init__(
        self,
        store: WebhookStore,
        sealer: Sealer,
        *,
        most: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most`: webhooks of a tenant, if that is limited below what holds for all."""
        self._store = store
        self._sealer = sealer
        self._most = most
        self._monotonic = monotonic
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()
        self._looks: dict[tuple[str, str], asyncio.Task[Webhook | None]] = {}
        self._limiter = RateLimiter(LOOKS_PER_SECOND, monotonic)
        self._creating = asyncio.Lock()

    # ------------------------------------------------------------ deliveries

    async def find(self, tenant_id: str, name: str) -> Webhook | None:
        """The webhook that takes deliveries; None for an unknown one. Raises `CannotOpen`, `TooManyLooks`."""
        key = (tenant_id, name)
        known = self._known.get(key)
        if known is not None and self._monotonic() - known.checked_at < RECHECK_SECONDS:
            self._known.move_to_end(key)
            return known.webhook
        if (known is None or known.webhook is None) and not self._limiter.try_take(""):
            raise TooManyLooks
        try:
            return await self._look(key)
        except Unavailable as error:
            if known is None:
                raise
            logger.warning("webhook %r of tenant %s is taken as it was: %s", name, tenant_id, error)
            return known.webhook

    async def _look(self, key: tuple[str, str]) -> Webhook | None:
        """One look for all who ask at once."""
        look = self._looks.get(key)
        if look is None:
            look = self._looks[key] = asyncio.create_task(self._fetch(key))
            look.add_done_callback(lambda done: self._looked(key, done))
        return await asyncio.shield(look)

    def _looked(self, key: tuple[str, str], look: "asyncio.Task[Webhook | None]") -> None:
        if self._looks.get(key) is look:
            del self._looks[key]
        if not look.cancelled():
            look.exception()  # whoever asked may be gone

    async def _fetch(self, key: tuple[str, str]) -> Webhook | None:
        checked_at = self._monotonic()
        row = await self._store.fetch_webhook(*key)
        webhook = None if row is None else self._opened(row)
        # A look that began before a change ended may have seen what was before it.
        if self._looks.get(key) is asyncio.current_task():
            self._keep(key, _Known(webhook, checked_at))
        return webhook

    def _keep(self, key: tuple[str, str], known: _Known) -> None:
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > MAX_CACHED:
            self._known.popitem(last=False)

    def _forget(self, key: tuple[str, str]) -> None:
        self._known.pop(key, None)
        self._looks.pop(key, None)

    def _opened(self, row: WebhookRow) -> Webhook:
        what = f"the secret of webhook {row.name!r} of tenant {row.tenant_id}"
        secret = self._sealer.open(row.key_id, row.secret, _owner(row), what)
        return Webhook(
            tenant_id=row.tenant_id,
            name=row.name,
            source=Source(row.source),
            auth=auth_from_json(row.auth_type, secret),
            event_key=check_event_key_expression(row.event_key_expression),
            scope=None if row.scope_expression is None else check_scope_expression(row.scope_expression),
            static_payload=None if row.static_payload is None else json.loads(row.static_payload),
            returns_event=row.returns_event,
        )

    # ------------------------------------------------------------ management

    async def fetch(self, tenant_id: str, name: str) -> WebhookRow | None:
        return await self._store.fetch_webhook(tenant_id, name)

    async def list(
        self,
        tenant_id: str,
        *,
        names: Sequence[str] = (),
        sources: Sequence[str] = (),
        limit: int,
        offset: int = 0,
    ) -> list[WebhookRow]:
        """A page, newest first."""
        return await self._store.list_webhooks(
            tenant_id, names=names, sources=sources, limit=limit, offset=offset
        )

    async def count(self, tenant_id: str) -> int:
        return await self._store.count_webhooks(tenant_id)

    async def create(
        self,
        tenant_id: str,
        *,
        webhook_id: str,
        name: str,
        source: Source,
        auth: Auth,
        event_key: cel.Expression,
        scope: cel.Expression | None,
        static_payload: str | None,
        returns_event: bool,
        now: int,
    ) -> WebhookRow:
        """A new webhook. Raises `Refused` for a name that the tenant has, and past its limit."""
        row = WebhookRow(
            tenant_id=tenant_id,
            name=name,
            id=webhook_id,
            source=source,
            auth_type=AUTH_TYPES[type(auth)],
            event_key_expression=event_key.text,
            scope_expression=None if scope is None else scope.text,
            static_payload=static_payload,
            returns_event=returns_event,
            key_id="",
            secret=b"",
            created_at=now,
            updated_at=now,
        )
        row = self._sealed(row, auth_to_json(auth))
        async with self._creating:
            await self._check_room(tenant_id)
            is_new = await self._changing(row, self._store.insert_webhook(row))
        if not is_new:
            raise Refused(
                Code.ALREADY_EXISTS,
                f"name: webhook {name!r} exists already: choose another name, or change that one",
            )
        return row

    async def _check_room(self, tenant_id: str) -> None:
        count = await self._store.count_webhooks(tenant_id)
        if self._most is not None and count >= self._most:
            raise Refused(
                Code.INVALID_ARGUMENT,
                f"INCOMING_WEBHOOK: the tenant has {count:,} of at most {self._most:,} incoming webhooks: delete one, or have "
                "SERVER_LIMITS_DEFAULT_INCOMING_WEBHOOK_LIMIT raised",
            )
        if count >= MAX_WEBHOOKS:
            raise Refused(
                Code.INVALID_ARGUMENT,
                f"the tenant has {count:,} incoming webhooks, and no more than {MAX_WEBHOOKS:,} are allowed: delete one",
            )

    async def update(self, tenant_id: str, name: str, changes: Changes, now: int) -> WebhookRow | None:
        """The webhook as it is then, None without one."""
        row = await self._store.fetch_webhook(tenant_id, name)
        if row is None:
            return None
        changed = row._replace(
            event_key_expression=changes.event_key_expression or row.event_key_expression,
            scope_expression=_changed(changes.scope_expression, row.scope_expression),
            static_payload=_changed(changes.static_payload, row.static_payload),
            returns_event=row.returns_event if changes.returns_event is None else changes.returns_event,
            updated_at=now,
        )
        is_there = await self._changing(row, self._store.update_webhook(changed))
        return changed if is_there else None

    async def delete(self, tenant_id: str, name: str) -> WebhookRow | None:
        """What was deleted, None if there was none."""
        key = (tenant_id, name)
        try:
            return await self._store.delete_webhook(tenant_id, name)
        finally:
            self._forget(key)

    async def _changing(self, row: WebhookRow, change: Awaitable[bool]) -> bool:
        """Carry out a change. Whatever comes of it, the next delivery looks at the record."""
        try:
            return await change
        finally:
            self._forget((row.tenant_id, row.name))

    # ------------------------------------------------------------ keys

    async def seal_anew(self) -> int:
        """Seal what other keys have sealed with the first key of the keyset, and say how much it was.

        What cannot be opened is left and logged: its webhook refuses deliveries until its key is back.
        """
        count = 0
        for row in await self._store.load_webhooks_of_other_keys(self._sealer.key_id):
            what = f"the secret of webhook {row.name!r} of tenant {row.tenant_id}"
            try:
                secret = self._sealer.open(row.key_id, row.secret, _owner(row), what)
            except CannotOpen as error:
                logger.error("%s", error)  # noqa: TRY400 - the text says all
                continue
            sealed = self._sealer.seal(secret, _owner(row))
            await self._store.reseal_webhook(row, self._sealer.key_id, sealed)
            self._forget((row.tenant_id, row.name))
            count += 1
        if count:
            logger.info("sealed the secrets of %d webhooks with the key %r", count, self._sealer.key_id)
        return count

    def _sealed(self, row: WebhookRow, secret: bytes) -> WebhookRow:
        return row._replace(key_id=self._sealer.key_id, secret=self._sealer.seal(secret, _owner(row)))


def _owner(row: WebhookRow) -> tuple[str, str, str]:
    """What the secret of a webhook is bound to."""
    return ("webhook", row.tenant_id, row.id)


def _changed(new: str | None, old: str | None) -> str | None:
    return old if new is None else new or None
