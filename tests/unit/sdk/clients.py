"""Clients for tests of the SDK: tokens that only look real, and a client of a fake engine."""

import base64
import json
from typing import Any

from broadaxe import Broadaxe, ClientConfig, ClientTLSConfig
from tests.unit.sdk.fake_engine import TENANT, FakeEngine


def make_token(**claims: Any) -> str:
    """A token with the claims that clients read, unsigned."""
    body = {
        "sub": TENANT,
        "server_url": "http://localhost:8080",
        "grpc_broadcast_address": "localhost:7070",
        **claims,
    }
    text = base64.urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJFUzI1NiJ9.{text}.c2ln"


TOKEN = make_token()


def make_client(
    engine: FakeEngine | str, *, token: str = TOKEN, namespace: str = "", **config: Any
) -> Broadaxe:
    address = engine if isinstance(engine, str) else engine.address
    return Broadaxe(
        token=token,
        host_port=address,
        namespace=namespace,
        config=ClientConfig(tls_config=ClientTLSConfig(strategy="none"), **config),
    )
