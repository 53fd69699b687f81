"""Incoming webhooks in the record: a port, and Postgres behind it.

May touch asyncpg through `pool`. The gateway writes them itself, as it does tenants and tokens: nothing live depends on them. Secrets
come sealed and leave sealed. `memory_webhooks` has the same without Postgres.
"""

from collections.abc import Sequence
from typing import Protocol

from broadaxe_storage.pool import Pool
from broadaxe_storage.records_webhooks import WebhookRow


class WebhookStore(Protocol):
    """Every method raises `Unavailable` without Postgres, and returns once what it changed is durable."""

    async def fetch_webhook(self, tenant_id: str, name: str) -> WebhookRow | None: ...

    async def list_webhooks(
        self,
        tenant_id: str,
        *,
        names: Sequence[str] = (),
        sources: Sequence[str] = (),
        limit: int,
        offset: int = 0,
    ) -> list[WebhookRow]:
        """A page of a tenant's webhooks, newest first; those of any of these names and any of these sources, empty for all."""
        ...

    async def count_webhooks(self, tenant_id: str) -> int: ...

    async def insert_webhook(self, row: WebhookRow) -> bool:
        """False if the tenant has one of this name. Raises `RefusedRecords` for an unknown tenant or a value that does not fit."""
        ...

    async def update_webhook(self, row: WebhookRow) -> bool:
        """Write what may change: expressions, static payload, `returns_event` and the secret. False if that webhook is gone."""
        ...

    async def delete_webhook(self, tenant_id: str, name: str) -> WebhookRow | None:
        """What was deleted, None if there was none."""
        ...

    async def load_webhooks_of_other_keys(self, key_id: str) -> list[WebhookRow]:
        """Webhooks of any tenant whose secrets are sealed with another key than this."""
        ...

    async def reseal_webhook(self, old: WebhookRow, key_id: str, secret: bytes) -> None:
        """Replace a secret by the same one sealed with another key; nothing happens if it has changed since `old` was read."""
        ...


class PostgresWebhooks:
    """See `WebhookStore` for what each method promises."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def fetch_webhook(self, tenant_id: str, name: str) -> WebhookRow | None:
        rows = await self._pool.fetch("fetch_webhook", tenant_id, name)
        return WebhookRow._make(rows[0]) if rows else None

    async def list_webhooks(
        self,
        tenant_id: str,
        *,
        names: Sequence[str] = (),
        sources: Sequence[str] = (),
        limit: int,
        offset: int = 0,
    ) -> list[WebhookRow]:
        rows = await self._pool.fetch(
            "list_webhooks", tenant_id, list(names) or None, list(sources) or None, limit, offset
        )
        return [WebhookRow._make(row) for row in rows]

    async def count_webhooks(self, tenant_id: str) -> int:
        count: int = await self._pool.fetchval("count_webhooks", tenant_id)
        return count

    async def insert_webhook(self, row: WebhookRow) -> bool:
        return bool(await self._pool.fetch("insert_webhook", *row))

    async def update_webhook(self, row: WebhookRow) -> bool:
        return bool(
            await self._pool.fetch(
                "update_webhook",
                row.tenant_id,
                row.name,
                row.id,
                row.event_key_expression,
                row.scope_expression,
                row.static_payload,
                row.returns_event,
                row.key_id,
                row.secret,
                row.updated_at,
            )
        )

    async def delete_webhook(self, tenant_id: str, name: str) -> WebhookRow | None:
        rows = await self._pool.fetch("delete_webhook", tenant_id, name)
        return WebhookRow._make(rows[0]) if rows else None

    async def load_webhooks_of_other_keys(self, key_id: str) -> list[WebhookRow]:
        return [
            WebhookRow._make(row) for row in await self._pool.fetch("load_webhooks_of_other_keys", key_id)
        ]

    async def reseal_webhook(self, old: WebhookRow, key_id: str, secret: bytes) -> None:
        await self._pool.fetch("reseal_webhook", old.tenant_id, old.name, old.secret, key_id, secret)
