"""Keysets: the keys that sign and verify API tokens, and the master key.

May touch the data directory. A keyset is a JSON Web Key Set (RFC 7517), as raw JSON or base64 of it:

- JWT private keyset: `{"keys": [{"kty": "EC", "crv": "P-256", "kid": "...", "x": "...", "y": "...", "d": "..."}]}`. The first key
  signs; every key verifies, so a key is rotated by putting the new one in front.
- JWT public keyset: the same without `d`. It may be left out, being contained in the private one; if given, it must hold the
  signing key, and the other keys in it verify too.
- master keyset: `{"keys": [{"kty": "oct", "kid": "...", "alg": "A256GCM", "k": "<32 bytes, base64url>"}]}`.

Keysets made by Tink (the reference's tool) are not read: their private parts are encrypted in a form of their own.
"""

import base64
import binascii
import json
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from jwt.exceptions import InvalidKeyError

from broadaxe_gateway.datadir import write_private

JWT_FILE = "jwt_private_keyset.json"
MASTER_FILE = "master_keyset.json"


class KeysetError(Exception):
    """A keyset that cannot be used; the text never shows key material."""


@dataclass(frozen=True, slots=True)
class Keyset:
    """Keys for API tokens: one that signs, several that verify, by key id."""

    signing_id: str
    signing_key: ec.EllipticCurvePrivateKey = field(repr=False)
    verifying: Mapping[str, ec.EllipticCurvePublicKey] = field(repr=False)


@dataclass(frozen=True, slots=True)
class MasterKeyset:
    """Keys that encrypt secrets kept in the database: the first encrypts, all decrypt."""

    primary_id: str
    keys: Mapping[str, bytes] = field(repr=False)


def _parse(content: bytes) -> list[dict[str, Any]]:
    text = content.strip()
    if not text.startswith(b"{"):
        try:
            text = base64.b64decode(text, validate=True)
        except binascii.Error:
            raise KeysetError("is neither JSON nor base64 of JSON") from None
    try:
        raw = json.loads(text)
    except ValueError:
        raise KeysetError("is not JSON") from None
    if isinstance(raw, dict) and ("encryptedKeyset" in raw or "primaryKeyId" in raw):
        raise KeysetError('is a Tink keyset; expected a JSON Web Key Set, {"keys": [...]}')
    keys = raw.get("keys") if isinstance(raw, dict) else None
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        raise KeysetError('is not a JSON Web Key Set: expected {"keys": [...]} with at least one key')
    ids = [key.get("kid") for key in keys]
    if not all(isinstance(kid, str) and kid for kid in ids) or len(set(ids)) != len(ids):
        raise KeysetError("needs a different `kid` for each key")
    return keys


def _ec_key(raw: dict[str, Any]) -> ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey:
    if raw.get("kty") != "EC" or raw.get("crv") != "P-256":
        raise KeysetError(f"key {raw['kid']!r} is not an EC key on P-256")
    try:
        return ECAlgorithm.from_jwk(raw)
    except (InvalidKeyError, ValueError, binascii.Error):
        raise KeysetError(f"key {raw['kid']!r} is malformed") from None


def parse_jwt_keyset(private: bytes, public: bytes | None = None) -> Keyset:
    """Read the private keyset and, if given, the public one. Raises `KeysetError`."""
    verifying: dict[str, ec.EllipticCurvePublicKey] = {}
    signing: tuple[str, ec.EllipticCurvePrivateKey] | None = None
    for raw in _parse(private):
        key = _ec_key(raw)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise KeysetError(f"key {raw['kid']!r} has no private part `d`")
        signing = signing or (raw["kid"], key)
        verifying[raw["kid"]] = key.public_key()
    assert signing is not None, "_parse refuses an empty keyset"
    if public is not None:
        given = parse_public_keyset(public)
        if given.get(signing[0]) != verifying[signing[0]]:
            raise KeysetError(f"does not hold the public part of the signing key {signing[0]!r}")
        verifying = {**verifying, **given}
    return Keyset(signing[0], signing[1], verifying)


def parse_public_keyset(content: bytes) -> dict[str, ec.EllipticCurvePublicKey]:
    """Public keys by key id. Raises `KeysetError`."""
    keys = {}
    for raw in _parse(content):
        key = _ec_key({name: value for name, value in raw.items() if name != "d"})
        assert isinstance(key, ec.EllipticCurvePublicKey), "no `d` was passed"
        keys[raw["kid"]] = key
    return keys


def parse_master_keyset(content: bytes) -> MasterKeyset:
    """Read the master keyset. Raises `KeysetError`."""
    keys = {}
    parsed = _parse(content)
    for raw in parsed:
        if raw.get("kty") != "oct" or not isinstance(raw.get("k"), str):
            raise KeysetError(f"key {raw['kid']!r} is not a symmetric key (`kty` oct)")
        try:
            key = base64.urlsafe_b64decode(raw["k"] + "=" * (-len(raw["k"]) % 4))
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != 32:
            raise KeysetError(f"key {raw['kid']!r} does not have 32 bytes")
        keys[raw["kid"]] = key
    return MasterKeyset(parsed[0]["kid"], keys)


def generate_jwt_keyset() -> bytes:
    """A private keyset with one fresh key, as JSON."""
    raw = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    key = {**raw, "kid": uuid.uuid4().hex, "alg": "ES256", "use": "sig"}
    key.pop("key_ops", None)
    return json.dumps({"keys": [key]}, indent=2).encode()


def generate_master_keyset() -> bytes:
    """A master keyset with one fresh key, as JSON."""
    key = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    return json.dumps(
        {"keys": [{"kty": "oct", "kid": uuid.uuid4().hex, "alg": "A256GCM", "k": key}]}, indent=2
    ).encode()


@dataclass(frozen=True, slots=True)
class Keysets:
    """What one server works with."""

    jwt: Keyset
    master: MasterKeyset


def open_keysets(data_dir: Path, jwt: Keyset | None, master: MasterKeyset | None) -> Keysets:
    """The configured keysets; those not configured are read from the data directory, where they are made once (mode 0600).

    Call with the data directory locked. Raises `KeysetError` naming the file when a stored keyset is damaged.
    """
    return Keysets(
        jwt=jwt or _stored_jwt(data_dir / JWT_FILE), master=master or _stored_master(data_dir / MASTER_FILE)
    )


def _stored_jwt(path: Path) -> Keyset:
    if not path.exists():
        write_private(path, generate_jwt_keyset())
    try:
        return parse_jwt_keyset(path.read_bytes())
    except (KeysetError, OSError) as error:
        raise KeysetError(f"keyset {path}: {error}") from error


def _stored_master(path: Path) -> MasterKeyset:
    if not path.exists():
        write_private(path, generate_master_keyset())
    try:
        return parse_master_keyset(path.read_bytes())
    except (KeysetError, OSError) as error:
        raise KeysetError(f"keyset {path}: {error}") from error
