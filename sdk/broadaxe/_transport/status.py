"""How a gRPC stream really ended.

A write that meets a stream which the server has already ended makes grpc.aio answer INTERNAL "Internal error from Core", whatever
the server said, until the server's own status has been read off the wire. A server that does not know a method ends its stream
at once, so that the first write often meets it: the answer UNIMPLEMENTED must not be lost, or nobody ever falls back.
"""

import asyncio
from typing import Any

import grpc
import grpc.aio

WRITE_FAILED = "Internal error from Core"
PATIENCE_S = 1.0
LOOK_EVERY_S = 0.002


async def final_error(call: Any) -> grpc.aio.AioRpcError | None:
    """The status with which a stream ended, as an error; None for OK. Waits for the end of the stream."""
    code = await call.code()
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while (
        code is grpc.StatusCode.INTERNAL
        and await call.details() == WRITE_FAILED
        and asyncio.get_running_loop().time() < deadline
    ):
        await asyncio.sleep(LOOK_EVERY_S)  # grpc.aio replaces the status without telling anybody
        code = await call.code()
    if code is grpc.StatusCode.OK:
        return None
    return grpc.aio.AioRpcError(
        code, await call.initial_metadata(), await call.trailing_metadata(), details=await call.details()
    )
