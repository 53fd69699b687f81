"""Secrets at rest: opened by the right key for the right owner, and by nothing else."""

import base64
import json

import pytest

from broadaxe_gateway.keysets import MasterKeyset, parse_master_keyset
from broadaxe_gateway.sealing import NONCE_BYTES, CannotOpen, Sealer

OWNER = ("webhook", "tenant", "id")


def keyset(*ids: str) -> MasterKeyset:
    keys = [
        {
            "kty": "oct",
            "kid": kid,
            "alg": "A256GCM",
            "k": base64.urlsafe_b64encode(kid.encode().ljust(32)).decode(),
        }
        for kid in ids
    ]
    return parse_master_keyset(json.dumps({"keys": keys}).encode())


def test_a_sealed_secret_opens_for_its_owner_and_shows_nothing() -> None:
    sealer = Sealer(keyset("a"))
    sealed = sealer.seal(b"secret", OWNER)
    assert b"secret" not in sealed
    assert sealer.open("a", sealed, OWNER, "it") == b"secret"
    again = sealer.seal(b"secret", OWNER)
    assert again[:NONCE_BYTES] != sealed[:NONCE_BYTES]
    assert again[NONCE_BYTES:] != sealed[NONCE_BYTES:]


@pytest.mark.parametrize(
    "owner",
    [
        ("webhook", "tenant", "other"),
        ("webhook", "other", "id"),
        ("webhook", "tenanti", "d"),
        ("webhook", "tenant"),
        (),
    ],
)
def test_a_secret_copied_to_another_owner_does_not_open(owner: tuple[str, ...]) -> None:
    sealer = Sealer(keyset("a"))
    with pytest.raises(CannotOpen, match="does not open with the key 'a'"):
        sealer.open("a", sealer.seal(b"secret", OWNER), owner, "it")


def test_any_change_of_a_sealed_secret_is_noticed() -> None:
    sealer = Sealer(keyset("a"))
    sealed = sealer.seal(b"secret", OWNER)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(CannotOpen):
            sealer.open("a", bytes(changed), OWNER, "it")
    for short in (b"", sealed[:NONCE_BYTES], sealed[:-1]):
        with pytest.raises(CannotOpen):
            sealer.open("a", short, OWNER, "it")


def test_the_first_key_seals_and_every_key_opens() -> None:
    before, rotated, after = Sealer(keyset("old")), Sealer(keyset("new", "old")), Sealer(keyset("new"))
    sealed = before.seal(b"secret", OWNER)
    assert rotated.key_id == "new"
    assert rotated.open("old", sealed, OWNER, "it") == b"secret"
    anew = rotated.seal(b"secret", OWNER)
    assert after.open("new", anew, OWNER, "it") == b"secret"
    with pytest.raises(
        CannotOpen,
        match=r"webhook 'w' is sealed with the key 'old', which SERVER_ENCRYPTION_MASTER_KEYSET .* \(it has 'new'\)",
    ):
        after.open("old", sealed, OWNER, "webhook 'w'")
