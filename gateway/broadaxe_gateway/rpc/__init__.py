"""The gRPC side: wire services over the engine's messages, and the batched streams of our own SDK."""
