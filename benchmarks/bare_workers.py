"""`python -m benchmarks.bare_workers ADDRESS COUNT ACTION`: so many workers in one process, over one connection.

They register with labels of their own, say that they live, and would run nothing that they are given: for measures of what it costs
others that they are there. The token comes from BROADAXE_CLIENT_TOKEN. Prints `connected` once all are, and ends with its standard input.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import grpc

from broadaxe.wire import dispatcher_pb2, stream_pb2

HEARTBEAT_SECONDS = 4.0


async def worker(
    channel: grpc.aio.Channel, token: str, number: int, action: str, connected: asyncio.Event
) -> None:
    """One worker, until it is cancelled."""

    async def up() -> AsyncIterator[stream_pb2.WorkerUp]:
        yield stream_pb2.WorkerUp(
            hello=stream_pb2.Hello(
                worker_name=f"bare-{number}",
                actions=[action],
                slot_config={"default": 100},
                labels={
                    "pool": dispatcher_pb2.WorkerLabels(str_value="slow"),
                    "number": dispatcher_pb2.WorkerLabels(int_value=number),
                },
            )
        )
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            yield stream_pb2.WorkerUp(heartbeat=True)

    call = channel.stream_stream(
        "/broadaxe.v1.Engine/WorkerStream",
        request_serializer=stream_pb2.WorkerUp.SerializeToString,
        response_deserializer=stream_pb2.WorkerDown.FromString,
    )(up(), metadata=(("authorization", f"Bearer {token}"),))
    async for down in call:
        if down.HasField("welcome"):
            connected.set()
        if down.assignments:
            raise RuntimeError(
                f"worker {number} was given work that its labels rule out: {down.assignments[0]}"
            )


async def main(address: str, count: int, action: str) -> None:
    token = os.environ["BROADAXE_CLIENT_TOKEN"]
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
        workers = []
        for number in range(count):
            connected = asyncio.Event()
            workers.append(group.create_task(worker(channel, token, number, action, connected)))
            await connected.wait()
        print("connected", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in workers:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
