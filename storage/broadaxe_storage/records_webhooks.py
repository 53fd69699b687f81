"""Rows of incoming webhooks. May touch nothing; the facts of `records` hold here, too."""

from typing import NamedTuple


class WebhookRow(NamedTuple):
    """An incoming webhook: how its deliveries are checked, and which event one becomes. Its name is unique in the tenant."""

    tenant_id: str
    name: str
    id: str
    """Of this webhook and no later one of the same name: what is sealed for one cannot be opened as the other's."""
    source: str
    """`GENERIC`, `GITHUB`, `STRIPE`, `SLACK`, `LINEAR` or `SVIX`."""
    auth_type: str
    """`BASIC`, `API_KEY` or `HMAC`."""
    event_key_expression: str
    scope_expression: str | None
    static_payload: str | None
    """JSON object text."""
    returns_event: bool
    key_id: str
    """The key that `secret` is sealed with."""
    secret: bytes
    created_at: int
    updated_at: int
