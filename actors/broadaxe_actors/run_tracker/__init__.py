"""`RunTracker`: the live runs of a tenant. Every transition of a task run is decided here, and nowhere else.

`tracker` is the actor; `attempts`, `following` and `reading` are its handlers by subject, over the one state in `state`.
"""

from broadaxe_actors.run_tracker.tracker import RunTracker

__all__ = ["RunTracker"]
