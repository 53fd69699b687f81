"""Listening sockets and the one HTTP server behind them. Touches sockets and uvicorn only.

Sockets are bound, and listening, before anything slow happens, so that a port in use is known at once. All ports share one uvicorn server; each
has its own application, which may be replaced while serving.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

GRACE_SECONDS = 5
"""How long requests in progress may take to end when the server stops."""


class ListenError(Exception):
    """A port cannot be listened on. `setting` is the variable that chose it."""

    def __init__(self, setting: str, host: str, port: int, reason: str) -> None:
        super().__init__(
            f"cannot listen on {host or '*'}:{port}: {reason}; choose another port with {setting}"
        )
        self.setting = setting
        self.port = port


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; an empty host is every interface. Raises `ListenError`."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
        # With both families to choose from, the one that SDKs try first.
        family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ListenError(setting, host, port, error.strerror or str(error)) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        reason = (
            "the port is in use by another process"
            if error.errno == errno.EADDRINUSE
            else error.strerror or str(error)
        )
        raise ListenError(setting, host, port, reason) from error
    return listener


class _Server(uvicorn.Server):
    """Leaves signals to who composes the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class HttpListeners:
    """Ports and their applications: bound at once, served from `start` until `stop`, which may be called at any time, twice too."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._apps: dict[int, ASGIApp] = {}
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    def bind(self, host: str, port: int, app: ASGIApp, *, setting: str) -> int:
        """Listen and return the port. Raises `ListenError`."""
        listener = listen(host, port, setting)
        self._sockets.append(listener)
        bound: int = listener.getsockname()[1]
        self._apps[bound] = app
        return bound

    def replace(self, port: int, app: ASGIApp) -> None:
        """Serve another application on a port from the next request on."""
        self._apps[port] = app

    async def start(self) -> None:
        """Serve all ports bound so far."""
        config = uvicorn.Config(
            self._route,
            log_config=None,
            access_log=False,
            interface="asgi3",
            lifespan="off",
            ws="none",
            server_header=False,
            # Whom to believe about clients is a setting of ours (see `throttle`).
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(self._sockets), name="http")

    async def stop(self) -> None:
        """Take no more requests, let those in progress end, close the sockets."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
            self._server = self._serving = None
        for listener in self._sockets:
            listener.close()
        self._sockets.clear()

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._apps[scope["server"][1]](scope, receive, send)
