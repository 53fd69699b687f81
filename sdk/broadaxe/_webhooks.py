"""Incoming webhooks: URLs to which other systems send what becomes events, over REST. Every method has an asynchronous form, with `aio_` before its name."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from broadaxe._rest import as_model, in_thread
from broadaxe.models import APIResourceMeta

if TYPE_CHECKING:
    from broadaxe._client import Broadaxe


class V1WebhookSourceName(StrEnum):
    """Who sends."""

    GENERIC = "GENERIC"
    GITHUB = "GITHUB"
    STRIPE = "STRIPE"
    SLACK = "SLACK"
    LINEAR = "LINEAR"
    SVIX = "SVIX"


class V1WebhookAuthType(StrEnum):
    """How a sender proves who it is."""

    BASIC = "BASIC"
    API_KEY = "API_KEY"
    HMAC = "HMAC"


class V1WebhookHMACAlgorithm(StrEnum):
    SHA1 = "SHA1"
    SHA256 = "SHA256"
    SHA512 = "SHA512"
    MD5 = "MD5"


class V1WebhookHMACEncoding(StrEnum):
    HEX = "HEX"
    BASE64 = "BASE64"
    BASE64URL = "BASE64URL"


class _Shape(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, defer_build=True)


class V1WebhookBasicAuth(_Shape):
    """User name and password, as HTTP's basic authentication sends them."""

    username: str = Field(repr=False)
    password: str = Field(repr=False)


class V1WebhookAPIKeyAuth(_Shape):
    """A key that stands in a header, alone."""

    header_name: str
    api_key: str = Field(repr=False)


class V1WebhookHMACAuth(_Shape):
    """A signature of the body in a header. What is signed, and how the header looks, is the source's way."""

    algorithm: V1WebhookHMACAlgorithm = V1WebhookHMACAlgorithm.SHA256
    encoding: V1WebhookHMACEncoding = V1WebhookHMACEncoding.HEX
    signature_header_name: str
    signing_secret: str = Field(repr=False)


class V1Webhook(_Shape):
    """A webhook; its secret is never told. `name` identifies it: the id in `metadata` is none."""

    metadata: APIResourceMeta
    tenant_id: str
    name: str
    source_name: V1WebhookSourceName
    event_key_expression: str
    scope_expression: str | None = None
    static_payload: dict[str, Any] | None = None
    auth_type: V1WebhookAuthType
    return_event_as_response_payload: bool | None = None


class V1WebhookList(_Shape):
    rows: list[V1Webhook] = []


class WebhookRefusal(_Shape):
    """Deliveries that were refused for one reason, `repeats` in a row; `at` is the last of them."""

    at: str
    stage: str
    """VALIDATION, BODY, EVENT_KEY, SCOPE or LIMIT."""
    status: int
    message: str
    repeats: int


class _Refusals(_Shape):
    rows: list[WebhookRefusal] = []


_AUTH_TYPES = {
    V1WebhookBasicAuth: V1WebhookAuthType.BASIC,
    V1WebhookAPIKeyAuth: V1WebhookAuthType.API_KEY,
    V1WebhookHMACAuth: V1WebhookAuthType.HMAC,
}


class WebhooksClient:
    """Makes, reads and changes incoming webhooks."""

    def __init__(self, client: "Broadaxe") -> None:
        self._client = client

    def url(self, webhook_name: str) -> str:
        """Where the sender has to send to."""
        return f"{self._client.settings.server_url.rstrip('/')}{self._path(webhook_name)}"

    def create(
        self,
        source_name: V1WebhookSourceName,
        name: str,
        event_key_expression: str,
        auth: V1WebhookBasicAuth | V1WebhookAPIKeyAuth | V1WebhookHMACAuth,
        scope_expression: str | None = None,
        static_payload: dict[str, Any] | None = None,
        return_event_as_response_payload: bool | None = None,
    ) -> V1Webhook:
        """A new webhook, which takes deliveries from now on. The expressions are CEL over `input`, the payload, and `headers`.

        event_key_expression: gives the key of the event; workflows start by it as by any other event's, namespace included.
        static_payload: laid over each payload, where it wins.
        return_event_as_response_payload: False answers senders 204 with nothing instead of the event.

        Raises `RequestRefusedError` for a name that there is, an expression that does not compile, credentials that the source does not send.
        """
        body = {
            "sourceName": V1WebhookSourceName(source_name),
            "name": name,
            "eventKeyExpression": event_key_expression,
            "scopeExpression": scope_expression,
            "staticPayload": static_payload,
            "returnEventAsResponsePayload": return_event_as_response_payload,
            "authType": _AUTH_TYPES[type(auth)],
            "auth": auth.model_dump(mode="json", by_alias=True),
        }
        return self._call(
            "POST", self._path(), {key: value for key, value in body.items() if value is not None}
        )

    aio_create = in_thread(create)

    def list(
        self,
        limit: int | None = None,
        offset: int | None = None,
        webhook_names: "list[str] | None" = None,
        source_names: "list[V1WebhookSourceName] | None" = None,
    ) -> V1WebhookList:
        """Webhooks of the tenant, newest first; of these names and sources, if given."""
        return self._client.rest.get(
            V1WebhookList,
            self._path(),
            {"limit": limit, "offset": offset, "webhookNames": webhook_names, "sourceNames": source_names},
        )

    aio_list = in_thread(list)  # noqa: A003 - the method above

    def get(self, webhook_name: str) -> V1Webhook:
        """A webhook by its name. Raises `NotFoundError`."""
        return self._client.rest.get(V1Webhook, self._path(webhook_name))

    aio_get = in_thread(get)

    def update(
        self,
        webhook_name: str,
        event_key_expression: str | None = None,
        scope_expression: str | None = None,
        static_payload: dict[str, Any] | None = None,
        return_event_as_response_payload: bool | None = None,
    ) -> V1Webhook:
        """Change what is given, from the next delivery on. Raises `NotFoundError`, and `RequestRefusedError` as `create`."""
        body = {
            "eventKeyExpression": event_key_expression,
            "scopeExpression": scope_expression,
            "staticPayload": static_payload,
            "returnEventAsResponsePayload": return_event_as_response_payload,
        }
        given = {key: value for key, value in body.items() if value is not None}
        return self._call("PATCH", self._path(webhook_name), given)

    aio_update = in_thread(update)

    def delete(self, webhook_name: str) -> V1Webhook:
        """Take no more deliveries; returns what was deleted. Raises `NotFoundError`."""
        return self._call("DELETE", self._path(webhook_name), None)

    aio_delete = in_thread(delete)

    def list_refusals(self, webhook_name: str) -> Sequence[WebhookRefusal]:
        """Why deliveries were refused lately, newest first, since the server was started. Raises `NotFoundError`."""
        return self._client.rest.get(_Refusals, f"{self._path(webhook_name)}/refusals").rows

    aio_list_refusals = in_thread(list_refusals)

    def _path(self, webhook_name: str | None = None) -> str:
        path = f"/api/v1/stable/tenants/{self._client.tenant_id}/webhooks"
        return path if webhook_name is None else f"{path}/{quote(webhook_name, safe='')}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> V1Webhook:
        return as_model(V1Webhook, self._client.rest.call(method, path, body=body), path)
