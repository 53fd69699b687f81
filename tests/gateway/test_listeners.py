"""HTTP ports: bound at once, served together, applications replaceable, sockets closed."""

import asyncio
import socket

import httpx
import pytest
from starlette.responses import PlainTextResponse

from broadaxe_gateway.http.listeners import HttpListeners, ListenError, listen


def answering(text: str):
    return PlainTextResponse(text)


@pytest.fixture
async def listeners():
    listeners = HttpListeners()
    yield listeners
    await listeners.stop()


async def get(port: int) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://127.0.0.1:{port}/")).text


async def test_each_port_has_its_application_and_it_can_be_replaced(listeners):
    first = listeners.bind("127.0.0.1", 0, answering("first"), setting="A")
    second = listeners.bind("", 0, answering("second"), setting="B")
    await listeners.start()
    assert (await get(first), await get(second)) == ("first", "second")
    listeners.replace(first, answering("replaced"))
    assert (await get(first), await get(second)) == ("replaced", "second")


async def test_port_in_use_is_told_at_bind_with_its_setting(listeners):
    with listen("127.0.0.1", 0, "X") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=rf"127\.0\.0\.1:{port}: the port is in use .* SERVER_PORT"):
            listeners.bind("127.0.0.1", port, answering(""), setting="SERVER_PORT")


def test_address_of_another_machine_is_told():
    with pytest.raises(ListenError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0, "SERVER_PORT")


async def test_stop_is_safe_before_start_and_twice_and_frees_the_port(listeners):
    port = listeners.bind("127.0.0.1", 0, answering(""), setting="A")
    await listeners.stop()
    await listeners.stop()
    listen("127.0.0.1", port, "A").close()

    port = listeners.bind("127.0.0.1", 0, answering(""), setting="A")
    await listeners.start()
    await get(port)
    await asyncio.gather(listeners.stop(), listeners.stop())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
