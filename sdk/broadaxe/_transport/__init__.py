"""How the SDK reaches a server: the seam (`base`), the batched stream (`stream`), the unary contract (`unary`), the thread they live on (`io`)."""

import os

# gRPC writes a line to standard error whenever a server restarts, unless told otherwise before it is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# Its fork handlers now and then crash a forked child that never uses it, such as one of a task's process pool.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from broadaxe._transport.base import (
    Gather,
    RunChunk,
    Transport,
    TriggerTicket,
    encode_runs,
)

__all__ = ["Gather", "RunChunk", "Transport", "TriggerTicket", "encode_runs"]
