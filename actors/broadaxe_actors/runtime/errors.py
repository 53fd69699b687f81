"""Errors of the runtime itself. What a handler raises is not among them: it travels as it is."""

import pykka


class ActorStopped(pykka.ActorDeadError):
    """The actor stopped before it answered. Whether it had acted on the message is not known to the caller."""
