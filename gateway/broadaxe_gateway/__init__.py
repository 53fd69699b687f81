"""The gateway: gRPC and HTTP in front of the engine, and the server process that composes them.

`server.serve` starts everything; `config.load_config` says what there is to set. Imports the actors and storage; of the SDK, the wire messages only.
"""
