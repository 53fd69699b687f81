"""Who is asking: the tenant of the API token in `Authorization: Bearer`. Uses the token service only."""

from http import HTTPStatus
from typing import Annotated, cast

from fastapi import Depends, Request

from broadaxe_gateway.http.errors import RequestRefused
from broadaxe_gateway.tokens import Identity, TokenService, Unauthenticated

FORBIDDEN_TEXT = "the API token is missing, malformed, expired, revoked or not of this server"


async def authenticate(request: Request) -> Identity:
    """The identity of the request's token. 403 with one text for whatever is wrong (rest 0.3)."""
    tokens = cast(TokenService, request.app.state.tokens)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise RequestRefused(HTTPStatus.FORBIDDEN, FORBIDDEN_TEXT)
    try:
        return await tokens.verify(token.strip())
    except Unauthenticated:
        raise RequestRefused(HTTPStatus.FORBIDDEN, FORBIDDEN_TEXT) from None


Caller = Annotated[Identity, Depends(authenticate)]
