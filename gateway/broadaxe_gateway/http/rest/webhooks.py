"""Incoming webhooks: made, read and changed by users, and taken from senders, who have no token (rest 9)."""

import time
from http import HTTPStatus
from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from broadaxe_gateway.http.errors import RequestRefused, message, refusal
from broadaxe_gateway.http.rest.dependencies import Engine, Tenant
from broadaxe_gateway.http.rest.models import webhooks as shapes
from broadaxe_gateway.http.rest.models.common import NIL_ID, Raw, answer, meta, time_text
from broadaxe_gateway.http.throttle import limited
from broadaxe_gateway.rpc.convert.checks import check_text
from broadaxe_gateway.webhooks import definition
from broadaxe_gateway.webhooks.definition import (
    Auth,
    AuthType,
    Source,
    check_auth,
    check_event_key_expression,
    check_scope_expression,
    check_static_payload,
    check_webhook_name,
)
from broadaxe_gateway.webhooks.deliveries import Delivered, Deliveries
from broadaxe_gateway.webhooks.directory import Changes, TooManyLooks, WebhookDirectory
from broadaxe_gateway.webhooks.signatures import DeliveryRefused
from broadaxe_storage.records_webhooks import WebhookRow

DEFAULT_LIMIT = 20_000

router = APIRouter(prefix="/api/v1/stable/tenants/{tenant}/webhooks")


async def _directory(request: Request) -> WebhookDirectory:
    return cast(WebhookDirectory, request.app.state.webhooks)


async def _deliveries(request: Request) -> Deliveries:
    return cast(Deliveries, request.app.state.deliveries)


Directory = Annotated[WebhookDirectory, Depends(_directory)]
Taking = Annotated[Deliveries, Depends(_deliveries)]
Name = Annotated[str, Path(alias="webhook")]


@router.get("", response_model=shapes.WebhookList)
async def list_webhooks(
    tenant: Tenant,
    webhooks: Directory,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    limit: Annotated[int, Query(le=DEFAULT_LIMIT)] = DEFAULT_LIMIT,
    source_names: Annotated[list[Source] | None, Query(alias="sourceNames")] = None,
    webhook_names: Annotated[list[str] | None, Query(alias="webhookNames")] = None,
) -> Response:
    """Newest first."""
    names = [check_text(name, "webhookNames") for name in webhook_names or ()]
    rows = await webhooks.list(
        tenant,
        names=names,
        sources=source_names or (),
        limit=limit if limit > 0 else DEFAULT_LIMIT,
        offset=offset,
    )
    return await answer(shapes.WebhookList(rows=[_webhook(row) for row in rows]))


@router.post("", response_model=shapes.Webhook)
async def create_webhook(
    tenant: Tenant, webhooks: Directory, engine: Engine, request: shapes.CreateWebhook
) -> Response:
    """Deliveries are taken from the moment of the answer."""
    source = request.source_name
    row = await webhooks.create(
        tenant,
        webhook_id=engine.new_id(),
        name=check_webhook_name(request.name),
        source=source,
        auth=check_auth(source, _auth(request)),
        event_key=check_event_key_expression(request.event_key_expression),
        scope=None if request.scope_expression is None else check_scope_expression(request.scope_expression),
        static_payload=None
        if request.static_payload is None
        else check_static_payload(request.static_payload),
        returns_event=request.return_event_as_response_payload is not False,
        now=_now(),
    )
    return await answer(_webhook(row))


@router.get("/{webhook}", response_model=shapes.Webhook, dependencies=[Depends(limited("webhook"))])
async def get_webhook(tenant: Tenant, webhooks: Directory, name: Name) -> Response:
    row = await webhooks.fetch(tenant, check_text(name, "name"))
    return await answer(_webhook(row or _unknown(name)))


@router.patch("/{webhook}", response_model=shapes.Webhook)
async def update_webhook(
    tenant: Tenant, webhooks: Directory, name: Name, request: shapes.UpdateWebhook
) -> Response:
    """What is given changes, from the next delivery on."""
    given = request.model_fields_set
    changes = Changes(
        event_key_expression=None
        if request.event_key_expression is None
        else check_event_key_expression(request.event_key_expression).text,
        scope_expression=check_scope_expression(request.scope_expression).text
        if request.scope_expression is not None
        else ""
        if "scope_expression" in given
        else None,
        static_payload=check_static_payload(request.static_payload)
        if request.static_payload is not None
        else ""
        if "static_payload" in given
        else None,
        returns_event=request.return_event_as_response_payload,
    )
    row = await webhooks.update(tenant, check_text(name, "name"), changes, _now())
    return await answer(_webhook(row or _unknown(name)))


@router.delete("/{webhook}", response_model=shapes.Webhook)
async def delete_webhook(tenant: Tenant, webhooks: Directory, taking: Taking, name: Name) -> Response:
    """Deliveries are refused from the moment of the answer."""
    row = await webhooks.delete(tenant, check_text(name, "name"))
    taking.refusals.forget(tenant, name)
    return await answer(_webhook(row or _unknown(name)))


@router.get("/{webhook}/refusals", response_model=shapes.WebhookRefusalList)
async def list_refusals(tenant: Tenant, webhooks: Directory, taking: Taking, name: Name) -> Response:
    """Why deliveries were refused lately, newest first; since the server was started."""
    if await webhooks.fetch(tenant, check_text(name, "name")) is None:
        _unknown(name)
    found = taking.refusals.of(tenant, name)
    return await answer(
        shapes.WebhookRefusalList(
            rows=[
                shapes.WebhookRefusal(
                    at=time_text(item.at),
                    stage=item.stage,
                    status=item.status,
                    message=item.message,
                    repeats=item.repeats,
                )
                for item in found
            ]
        )
    )


@router.post(
    "/{webhook}",
    response_model=shapes.WebhookResponse,
    responses={
        HTTPStatus.NO_CONTENT: {"description": "taken; the webhook returns no event"},
    },
)
async def receive(tenant: Annotated[UUID, Path()], taking: Taking, name: Name, request: Request) -> Response:
    """A delivery. Public: what proves it are the credentials or the signature that the webhook asks for."""
    tenant_id = str(tenant)
    try:
        webhook = None if "\0" in name else await taking.find(tenant_id, name)
    except TooManyLooks:
        raise RequestRefused(
            HTTPStatus.TOO_MANY_REQUESTS, "too many unknown webhooks are asked for: try again"
        ) from None
    except DeliveryRefused as refused:
        return message(refused.status, refused.message)
    if webhook is None:
        return message(HTTPStatus.NOT_FOUND, "not found")
    headers: dict[str, str] = {}
    for header, value in request.headers.items():
        headers.setdefault(header.lower(), value)
    try:
        taken = await taking.take(webhook, headers, await request.body())
    except DeliveryRefused as refused:
        return refusal(refused.status, refused.message)
    if isinstance(taken, str):
        return await answer(shapes.WebhookResponse(challenge=taken))
    if not webhook.returns_event:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    return await answer(shapes.WebhookResponse(message="ok", event=_event(tenant_id, name, taken)))


def _now() -> int:
    return time.time_ns() // 1000


def _unknown(name: str) -> WebhookRow:
    """404, in the shape of look-ups."""
    raise RequestRefused(HTTPStatus.NOT_FOUND, f"webhook {name!r} not found")


def _auth(request: shapes.CreateBasic | shapes.CreateApiKey | shapes.CreateHmac) -> Auth:
    auth = request.auth
    if isinstance(auth, shapes.BasicAuth):
        return definition.BasicAuth(auth.username, auth.password.get_secret_value())
    if isinstance(auth, shapes.ApiKeyAuth):
        return definition.ApiKeyAuth(auth.header_name, auth.api_key.get_secret_value())
    return definition.HmacAuth(
        auth.algorithm, auth.encoding, auth.signature_header_name, auth.signing_secret.get_secret_value()
    )


def _webhook(row: WebhookRow) -> shapes.Webhook:
    return shapes.Webhook(
        # Its name identifies it.
        metadata=meta(NIL_ID, row.created_at, row.updated_at),
        tenant_id=row.tenant_id,
        name=row.name,
        source_name=Source(row.source),
        event_key_expression=row.event_key_expression,
        scope_expression=row.scope_expression,
        static_payload=None if row.static_payload is None else Raw(row.static_payload.encode()),
        auth_type=AuthType(row.auth_type),
        return_event_as_response_payload=row.returns_event,
    )


def _event(tenant_id: str, name: str, taken: Delivered) -> shapes.DeliveredEvent:
    return shapes.DeliveredEvent(
        metadata=meta(taken.event_id, taken.at),
        key=taken.key,
        tenant_id=tenant_id,
        payload=Raw(taken.payload),
        scope=taken.scope,
        seen_at=time_text(taken.at),
        triggering_webhook_name=name,
    )
