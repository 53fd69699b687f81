"""What clients ask about the server, most of it before they have a token: version, ways to sign in, whether it is self-hosted (rest 11)."""

from typing import cast

from fastapi import APIRouter, Depends, Request, Response

from broadaxe_gateway.http.auth import people_of, verified
from broadaxe_gateway.http.rest.models.accounts import (
    ErrorDescription,
    Errors,
    Integration,
    Meta,
    MetaAuth,
    ServerVersion,
)
from broadaxe_gateway.http.rest.models.common import answer

router = APIRouter(prefix="/api/v1")


@router.get("/version", response_model=ServerVersion)
async def version(request: Request) -> Response:
    return await answer(ServerVersion(version=cast(str, request.app.state.version)))


@router.get("/cloud/metadata", response_model=Errors)
async def cloud_metadata() -> Response:
    """That this is a self-hosted server, in the words by which clients tell."""
    return await answer(Errors(errors=[ErrorDescription(description="oss")]))


@router.get("/meta", response_model=Meta)
async def get_meta(request: Request) -> Response:
    """How people sign in, and what they may do by themselves."""
    config = people_of(request).config
    return await answer(
        Meta(
            auth=MetaAuth(schemes=["basic"] if config.is_basic_auth_enabled else []),
            allow_signup=config.allows_signup,
            allow_invites=config.allows_invites,
            allow_create_tenant=config.allows_create_tenant,
            allow_change_password=config.allows_change_password,
        )
    )


@router.get("/meta/integrations", dependencies=[Depends(verified)])
async def list_integrations() -> list[Integration]:
    """There are none yet."""
    return [Integration(name=name, enabled=False) for name in ("slack", "email")]
