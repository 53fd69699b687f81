"""TLS and mutual TLS of the gRPC port, with certificates made here and real handshakes."""

import json
from pathlib import Path

import grpc
import pytest

from broadaxe_gateway.server import ENGINE_VERSION
from tests.gateway.certificates import Authority
from tests.gateway.running import environment_of, get_version, running

AUTHORITY = Authority("ours")
SERVER = AUTHORITY.sign("localhost")
CLIENT = AUTHORITY.sign("client")
STRANGER = Authority("theirs").sign("client")


@pytest.fixture(scope="module")
def tls_environment(data_dir):
    (data_dir / "server.pem").write_bytes(SERVER.certificate)
    (data_dir / "server.key").write_bytes(SERVER.key)
    (data_dir / "root.pem").write_bytes(AUTHORITY.certificate)
    return environment_of(
        data_dir,
        SERVER_TLS_CERT_FILE=str(data_dir / "server.pem"),
        SERVER_TLS_KEY_FILE=str(data_dir / "server.key"),
        SERVER_TLS_ROOT_CA_FILE=str(data_dir / "root.pem"),
    )


def read_profile(environment) -> dict:
    return json.loads((Path(environment["BROADAXE_HOME"]) / "profiles" / "local.json").read_text())


def credentials(root: bytes, pair=None) -> grpc.ChannelCredentials:
    if pair is None:
        return grpc.ssl_channel_credentials(root)
    return grpc.ssl_channel_credentials(root, pair.key, pair.certificate)


async def version_over(server, environment, creds) -> str:
    token = read_profile(environment)["token"]
    async with grpc.aio.secure_channel(server.grpc_address, creds) as channel:
        return await get_version(channel, token)


async def assert_refused(server, environment, creds) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await version_over(server, environment, creds)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_tls_serves_clients_that_trust_the_root(tls_environment):
    async with running(tls_environment) as server:
        trusting = credentials(AUTHORITY.certificate)
        assert await version_over(server, tls_environment, trusting) == ENGINE_VERSION
        await assert_refused(server, tls_environment, credentials(Authority().certificate))
        profile = read_profile(tls_environment)
        assert profile["tls_strategy"] == "tls"
        root = Path(profile["tls_root_ca_file"]).read_bytes()  # noqa: ASYNC240 - a small local file
        assert root.strip() == AUTHORITY.certificate.strip()


async def test_tls_port_refuses_plaintext(tls_environment):
    async with running(tls_environment) as server:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await get_version(channel, read_profile(tls_environment)["token"])
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_mtls_serves_only_clients_with_a_certificate_of_the_root(tls_environment):
    environment = {**tls_environment, "SERVER_TLS_STRATEGY": "mtls"}
    async with running(environment) as server:
        ours = credentials(AUTHORITY.certificate, CLIENT)
        assert await version_over(server, environment, ours) == ENGINE_VERSION
        await assert_refused(server, environment, credentials(AUTHORITY.certificate))
        await assert_refused(server, environment, credentials(AUTHORITY.certificate, STRANGER))
