"""A limit on the size of request bodies, kept while they arrive. Pure ASGI."""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from broadaxe_gateway.http.errors import message


class BodyLimit:
    """Answers 413 to a body of more than `max_bytes`, announced or not, without holding more than that of it."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        text = f"the request body is larger than {self._max_bytes} bytes"
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await message(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)(scope, receive, send)
            return
        arrived = 0

        async def limited() -> Message:
            nonlocal arrived
            part = await receive()
            arrived += len(part.get("body", b""))
            if arrived > self._max_bytes:
                # The handler reading the body meets this, and the application answers it.
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text)
            return part

        await self._app(scope, limited, send)
