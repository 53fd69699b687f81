"""A shard's port over a Unix socket, for a gateway in a process of its own.

Frames are a four-byte length and a pickled list of messages; both ends are processes of ours. Pickle runs what it is told, so the
socket is made readable and writable for its owner alone, and a peer under another user id is turned away. May touch asyncio and `link`.
"""

import asyncio
import logging
import os
import pickle
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from broadaxe_actors.link import Batch, ShardLink
from broadaxe_actors.shard import Shard

logger = logging.getLogger(__name__)

_LENGTH = struct.Struct("!I")
_CREDENTIALS = struct.Struct("3i")
MAX_FRAME = 256_000_000


class LinkLost(ConnectionError):
    """The other end of the link is gone; the gateway ends its streams with UNAVAILABLE and connects again."""


async def serve_links(shard: Shard, path: Path) -> asyncio.Server:
    """Accept gateways on a Unix socket. The first frame of each is its gateway id."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _serve(shard, reader, writer)

    before = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(accept, path)
    finally:
        os.umask(before)


async def connect_link(path: Path, gateway_id: str) -> "SocketLink":
    """The gateway's end. Raises `OSError` when nobody listens there."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(_frame(gateway_id))
    return SocketLink(reader, writer)


class SocketLink:
    """A `ShardLink` over a socket. `closed` ends when the shard is gone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._callback: Callable[[Batch], None] | None = None
        self.closed = asyncio.ensure_future(self._read())

    def submit(self, batch: Batch) -> None:
        if self._writer.is_closing():
            raise LinkLost("the engine is not connected: try again")
        self._writer.write(_frame(list(batch)))

    def on_batch(self, callback: Callable[[Batch], None]) -> None:
        self._callback = callback

    async def close(self) -> None:
        """Hang up. May be called twice."""
        self._writer.close()
        await asyncio.wait([self.closed])

    async def _read(self) -> None:
        while (batch := await _read_frame(self._reader)) is not None:
            assert self._callback is not None
            self._callback(batch)
        self._writer.close()


async def _serve(shard: Shard, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if not _is_ours(writer):
        logger.warning("a process of another user tried to connect as a gateway; it was turned away")
        writer.close()
        return
    gateway_id = await _read_frame(reader)
    if not isinstance(gateway_id, str):
        writer.close()
        return
    link: ShardLink = shard.connect_gateway(gateway_id)
    link.on_batch(lambda batch: writer.write(_frame(list(batch))))
    try:
        while (batch := await _read_frame(reader)) is not None:
            link.submit(batch)
    finally:
        # Its workers' streams went with it; they come back through another gateway, or this one again.
        shard.disconnect_gateway(gateway_id)
        writer.close()


async def _read_frame(reader: asyncio.StreamReader) -> Any:
    """The next frame, or None at the end of the stream."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_FRAME:
            logger.error("a frame of %d bytes is larger than a link carries; hanging up", length)
            return None
        return pickle.loads(await reader.readexactly(length))  # noqa: S301 - from a process of our own user, see above
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def _frame(value: object) -> bytes:
    body = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    peer = writer.get_extra_info("socket")
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(raw)
    return bool(user == os.getuid())
