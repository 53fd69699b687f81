"""Shapes of incoming webhooks (rest 9)."""

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr

from broadaxe_gateway.http.rest.models.common import EMPTY, Raw, ResourceMeta, Wire
from broadaxe_gateway.webhooks.definition import Algorithm, AuthType, Encoding, Source
from broadaxe_gateway.webhooks.refusals import Stage


class BasicAuth(Wire):
    """`V1WebhookBasicAuth`."""

    username: str
    password: SecretStr


class ApiKeyAuth(Wire):
    """`V1WebhookAPIKeyAuth`."""

    header_name: str
    api_key: SecretStr


class HmacAuth(Wire):
    """`V1WebhookHMACAuth`."""

    algorithm: Algorithm
    encoding: Encoding
    signature_header_name: str
    signing_secret: SecretStr


class _CreateBase(Wire):
    """`V1CreateWebhookRequestBase`."""

    source_name: Source
    name: str
    event_key_expression: str
    scope_expression: str | None = None
    static_payload: dict[str, Any] | None = None
    return_event_as_response_payload: bool | None = None


class CreateBasic(_CreateBase):
    """`V1CreateWebhookRequestBasicAuth`."""

    auth_type: Literal[AuthType.BASIC]
    auth: BasicAuth


class CreateApiKey(_CreateBase):
    """`V1CreateWebhookRequestAPIKey`."""

    auth_type: Literal[AuthType.API_KEY]
    auth: ApiKeyAuth


class CreateHmac(_CreateBase):
    """`V1CreateWebhookRequestHMAC`."""

    auth_type: Literal[AuthType.HMAC]
    auth: HmacAuth


CreateWebhook = Annotated[CreateBasic | CreateApiKey | CreateHmac, Field(discriminator="auth_type")]
"""`V1CreateWebhookRequest`."""


class UpdateWebhook(Wire):
    """`V1UpdateWebhookRequest`. What is not given stays; null takes a scope expression or static payload away."""

    event_key_expression: str | None = None
    scope_expression: str | None = None
    static_payload: dict[str, Any] | None = None
    return_event_as_response_payload: bool | None = None


class Webhook(Wire):
    """`V1Webhook`."""

    metadata: ResourceMeta
    tenant_id: str
    name: str
    source_name: Source
    event_key_expression: str
    scope_expression: str | None = None
    static_payload: Raw | None = None
    auth_type: AuthType
    return_event_as_response_payload: bool


class WebhookList(Wire):
    """`V1WebhookList`."""

    rows: list[Webhook]


class WebhookRefusal(Wire):
    """A delivery that was refused, or several alike in a row."""

    at: str
    stage: Stage
    status: int
    message: str
    repeats: int


class WebhookRefusalList(Wire):
    """The last of them, newest first."""

    rows: list[WebhookRefusal]


class EventCounts(Wire):
    """`V1EventWorkflowRunSummary`, before any run has begun."""

    running: int = 0
    queued: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class DeliveredEvent(Wire):
    """`V1Event`, as far as it is known when a delivery is answered."""

    metadata: ResourceMeta
    key: str
    tenant_id: str
    workflow_run_summary: EventCounts = EventCounts()
    additional_metadata: Raw = EMPTY
    payload: Raw
    scope: str | None = None
    seen_at: str
    triggering_webhook_name: str


class WebhookResponse(Wire):
    """`V1WebhookResponse`."""

    message: str | None = None
    event: DeliveredEvent | None = None
    challenge: str | None = None
