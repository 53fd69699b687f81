"""Secrets kept in the database: sealed with the master keyset, AES-256-GCM. Touches keys and bytes only.

A sealed secret is a nonce of 12 bytes, then the ciphertext with its tag; beside it stands the id of its key. What it belongs to is
associated data: a secret copied to another row cannot be opened there. The first key of the set seals, every key opens, so that a key is
replaced by putting the new one in front; once all is sealed anew the old one can go.
"""

import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from broadaxe_gateway.keysets import MasterKeyset

NONCE_BYTES = 12
SETTING = "SERVER_ENCRYPTION_MASTER_KEYSET (or the data directory's master_keyset.json)"


class CannotOpen(Exception):
    """A sealed secret that this keyset does not open; the text says what it belongs to and which setting to look at."""


class Sealer:
    """Seals and opens with one keyset."""

    def __init__(self, keyset: MasterKeyset) -> None:
        self.key_id = keyset.primary_id
        """The key that seals."""
        self._keys = {key_id: AESGCM(key) for key_id, key in keyset.keys.items()}

    def seal(self, secret: bytes, owner: Sequence[str]) -> bytes:
        """The secret of `owner`, sealed with the key `key_id`."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._keys[self.key_id].encrypt(nonce, secret, _associated(owner))

    def open(self, key_id: str, sealed: bytes, owner: Sequence[str], what: str) -> bytes:
        """The secret of `owner`. `what` names it in the `CannotOpen` that is raised without its key, or for another owner's or changed bytes."""
        key = self._keys.get(key_id)
        if key is None:
            known = ", ".join(map(repr, self._keys))
            raise CannotOpen(
                f"{what} is sealed with the key {key_id!r}, which {SETTING} does not hold (it has {known}): "
                "add that key to the keyset, behind the first"
            )
        try:
            return key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _associated(owner))
        except (InvalidTag, ValueError) as error:
            raise CannotOpen(
                f"{what} does not open with the key {key_id!r} of {SETTING}: the key is another one of the same id, or the row was changed"
            ) from error


def _associated(owner: Sequence[str]) -> bytes:
    # Lengths stand before the parts, so that no two owners look alike.
    return b"".join(b"%d:%s" % (len(part.encode()), part.encode()) for part in owner)
