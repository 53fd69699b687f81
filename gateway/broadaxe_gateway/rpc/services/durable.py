"""`v1.V1Dispatcher`: durable execution. Nothing of it works yet: every method is answered UNIMPLEMENTED by name."""


class DurableService:
    """Method names are the wire's; what is missing here is answered UNIMPLEMENTED."""
