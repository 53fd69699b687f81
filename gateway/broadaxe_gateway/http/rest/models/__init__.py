"""Shapes of the REST API, as the wire document has them, one resource a file. Pure; names are snake case here and the wire's in JSON."""
