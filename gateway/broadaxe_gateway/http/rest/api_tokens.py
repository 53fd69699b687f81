"""API tokens of a tenant: create, list, revoke (rest 10). Through the token service, so that a revoked one ends at once.

For people alone: a token that leaked cannot make others, or end them.
"""

from http import HTTPStatus
from typing import cast
from uuid import UUID

from fastapi import APIRouter, Request, Response

from broadaxe_gateway.http.auth import AdminPerson, CallerAdminPerson, people_of
from broadaxe_gateway.http.errors import RouteRefused
from broadaxe_gateway.http.rest.dependencies import unknown
from broadaxe_gateway.http.rest.models.accounts import (
    ApiTokenList,
    CreateApiTokenRequest,
    CreateApiTokenResponse,
)
from broadaxe_gateway.http.rest.models.common import answer, made
from broadaxe_gateway.http.rest.present_accounts import token_of
from broadaxe_gateway.tokens import DEFAULT_LIFETIME_SECONDS, TokenService, parse_lifetime

MAX_TOKENS = 1_000
"""Shown at once, the newest, and the most that a tenant may have before it can create no more."""

router = APIRouter(prefix="/api/v1")


@router.post("/tenants/{tenant}/api-tokens", response_model=CreateApiTokenResponse)
async def create_token(body: CreateApiTokenRequest, access: AdminPerson, request: Request) -> Response:
    tokens = cast(TokenService, request.app.state.tokens)
    rows = await people_of(request).store.list_tokens(access.tenant_id, MAX_TOKENS)
    if len(rows) >= MAX_TOKENS:
        raise RouteRefused(
            HTTPStatus.BAD_REQUEST, f"this tenant has {MAX_TOKENS} tokens already: revoke some of them"
        )
    try:
        lifetime = DEFAULT_LIFETIME_SECONDS if body.expires_in is None else parse_lifetime(body.expires_in)
        token = await tokens.issue(access.tenant_id, body.name, lifetime)
    except (ValueError, OverflowError) as error:
        raise RouteRefused(HTTPStatus.BAD_REQUEST, f"expiresIn: {error}") from error
    return await answer(CreateApiTokenResponse(token=token))


@router.get("/tenants/{tenant}/api-tokens", response_model=ApiTokenList)
async def list_tokens(access: AdminPerson, request: Request) -> Response:
    """Those that are not revoked, the newest first."""
    rows = await people_of(request).store.list_tokens(access.tenant_id, MAX_TOKENS)
    return await made(lambda: ApiTokenList(rows=[token_of(row) for row in rows]), len(rows))


@router.post("/api-tokens/{token}", status_code=HTTPStatus.NO_CONTENT)
async def revoke_token(token: UUID, access: CallerAdminPerson, request: Request) -> Response:
    tokens = cast(TokenService, request.app.state.tokens)
    if not await tokens.revoke(access.tenant_id, str(token)):
        raise unknown("token", token)
    return Response(status_code=HTTPStatus.NO_CONTENT)
