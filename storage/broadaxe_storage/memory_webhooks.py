"""Incoming webhooks without Postgres, for tests. Touches nothing outside the process."""

from collections.abc import Sequence

from broadaxe_storage.errors import RefusedRecords
from broadaxe_storage.records_webhooks import WebhookRow

_SOURCES = frozenset({"GENERIC", "GITHUB", "STRIPE", "SLACK", "LINEAR", "SVIX"})
_AUTH_TYPES = frozenset({"BASIC", "API_KEY", "HMAC"})


class MemoryWebhooks:
    """See `webhooks.WebhookStore` for what each method promises. `tenants` are those that exist; None is any."""

    def __init__(self, tenants: Sequence[str] | None = None) -> None:
        self._tenants = tenants
        self.rows: dict[tuple[str, str], WebhookRow] = {}

    async def fetch_webhook(self, tenant_id: str, name: str) -> WebhookRow | None:
        return self.rows.get((tenant_id, name))

    async def list_webhooks(
        self,
        tenant_id: str,
        *,
        names: Sequence[str] = (),
        sources: Sequence[str] = (),
        limit: int,
        offset: int = 0,
    ) -> list[WebhookRow]:
        found = [
            row
            for row in self.rows.values()
            if row.tenant_id == tenant_id
            and (not names or row.name in names)
            and (not sources or row.source in sources)
        ]
        found.sort(key=lambda row: (row.created_at, row.id), reverse=True)
        return found[offset : offset + limit]

    async def count_webhooks(self, tenant_id: str) -> int:
        return sum(1 for row in self.rows.values() if row.tenant_id == tenant_id)

    async def insert_webhook(self, row: WebhookRow) -> bool:
        if self._tenants is not None and row.tenant_id not in self._tenants:
            raise RefusedRecords("no such tenant", [row.tenant_id])
        if row.source not in _SOURCES or row.auth_type not in _AUTH_TYPES:
            raise RefusedRecords(f"{row.source!r} or {row.auth_type!r} is not known", [row.id])
        return self.rows.setdefault((row.tenant_id, row.name), row) is row

    async def update_webhook(self, row: WebhookRow) -> bool:
        known = self.rows.get((row.tenant_id, row.name))
        if known is None or known.id != row.id:
            return False
        self.rows[row.tenant_id, row.name] = row._replace(
            source=known.source, auth_type=known.auth_type, created_at=known.created_at
        )
        return True

    async def delete_webhook(self, tenant_id: str, name: str) -> WebhookRow | None:
        return self.rows.pop((tenant_id, name), None)

    async def load_webhooks_of_other_keys(self, key_id: str) -> list[WebhookRow]:
        return sorted(row for row in self.rows.values() if row.key_id != key_id)

    async def reseal_webhook(self, old: WebhookRow, key_id: str, secret: bytes) -> None:
        known = self.rows.get((old.tenant_id, old.name))
        if known is not None and known.secret == old.secret:
            self.rows[old.tenant_id, old.name] = known._replace(key_id=key_id, secret=secret)
