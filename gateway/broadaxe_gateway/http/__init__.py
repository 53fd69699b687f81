"""HTTP: REST, health and metrics. Thin: authenticate, parse, ask the engine, answer."""
