"""How the SDK reaches a server: the seam (`base`), the batched stream (`stream`), the unary contract (`unary`), the thread they live on (`io`)."""

from broadaxe._transport.base import Gather, RunChunk, Transport, TriggerTicket, encode_runs

__all__ = ["Gather", "RunChunk", "Transport", "TriggerTicket", "encode_runs"]
