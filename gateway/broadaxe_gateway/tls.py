"""TLS material: checked when configured, turned into gRPC credentials when serving. Touches nothing else."""

from collections.abc import Iterator
from typing import Protocol

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key


class TlsMaterial(Protocol):
    """The part of `config.TlsConfig` that matters here."""

    @property
    def strategy(self) -> str: ...

    @property
    def certificate(self) -> bytes: ...

    @property
    def key(self) -> bytes: ...

    @property
    def root_ca(self) -> bytes: ...


def tls_problems(material: TlsMaterial) -> Iterator[str]:
    """What is wrong with certificate, key and root, each problem naming its variable and showing no content."""
    public = None
    try:
        public = x509.load_pem_x509_certificates(material.certificate)[0].public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        yield f"SERVER_TLS_CERT: holds no certificate that can be read ({error})"
    if material.root_ca:
        try:
            x509.load_pem_x509_certificates(material.root_ca)
        except (ValueError, UnsupportedAlgorithm) as error:
            yield f"SERVER_TLS_ROOT_CA: holds no certificate that can be read ({error})"
    try:
        private = load_pem_private_key(material.key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        yield "SERVER_TLS_KEY: holds no private key that can be read; it must be PEM without a password"
        return
    if public is not None:
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if private.public_key().public_bytes(*form) != public.public_bytes(*form):
            yield "SERVER_TLS_KEY: does not belong to the certificate of SERVER_TLS_CERT"


def server_credentials(material: TlsMaterial) -> grpc.ServerCredentials | None:
    """Credentials for the gRPC port; None for plaintext."""
    if material.strategy == "none":
        return None
    return grpc.ssl_server_credentials(
        [(material.key, material.certificate)],
        root_certificates=material.root_ca or None,
        require_client_auth=material.strategy == "mtls",
    )
