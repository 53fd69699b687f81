"""Messages of the wire contract and of our batched streams, generated from the `.proto` files beside this one.

The one part of the SDK that the gateway shares. `make wire` generates them again.
"""
