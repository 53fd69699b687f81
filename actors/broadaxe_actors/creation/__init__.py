"""How runs come into being: the part of `RunTracker` that turns triggers into runs.

`creation` is the way of a trigger, `keys` its idempotency keys, `births` what is made, `job` what is known on the way.
"""

from broadaxe_actors.creation.creation import SLICE, Creation
from broadaxe_actors.creation.job import EventStart, Start

__all__ = ["SLICE", "Creation", "EventStart", "Start"]
