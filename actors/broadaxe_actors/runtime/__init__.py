"""Ray-like actors on Pykka, drained on one asyncio loop. Knows nothing of tasks.

`virtual` (a loop in virtual time) and `testing` (probes for single actors) are for tests and imported by name.
"""

from broadaxe_actors.runtime.actor import Actor, Sendable
from broadaxe_actors.runtime.clock import Clock, Rng, SeededRng, SystemClock, SystemRng, VirtualClock
from broadaxe_actors.runtime.directory import Directory, KeyedMethod
from broadaxe_actors.runtime.errors import ActorStopped
from broadaxe_actors.runtime.handle import Handle, RemoteMethod
from broadaxe_actors.runtime.local import Crash, Runtime
from broadaxe_actors.runtime.outbox import Effect, TimerChange

__all__ = [
    "Actor",
    "ActorStopped",
    "Clock",
    "Crash",
    "Directory",
    "Effect",
    "Handle",
    "KeyedMethod",
    "RemoteMethod",
    "Rng",
    "Runtime",
    "SeededRng",
    "Sendable",
    "SystemClock",
    "SystemRng",
    "TimerChange",
    "VirtualClock",
]
