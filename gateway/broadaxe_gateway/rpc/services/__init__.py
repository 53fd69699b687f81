"""One wire service a module: check, convert, ask the engine, answer."""
