"""A gateway in a process of its own: a real gRPC server whose hub reaches the engine over a Unix socket.

Run as `python -m tests.gateway.second_process SOCKET`; prints its port, and ends when its standard input does.
"""

import asyncio
import sys
from pathlib import Path

from broadaxe_actors.socket_link import connect_link
from tests.gateway.rpc.fakes import running_gateway


async def main(path: Path) -> None:
    link = await connect_link(path, "second")
    async with running_gateway(link) as gateway:
        print(f"port={gateway.port}", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await link.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
