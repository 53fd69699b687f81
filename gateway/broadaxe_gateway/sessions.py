"""Sessions of people: what the cookie holds, and who it stands for.

May touch session rows, through the store. Facts to know:

- The token is random and only its SHA-256 is stored, so that who reads the database cannot sign in. It is signed besides: a cookie that was
  not made here is refused without asking Postgres, and a change of the secrets ends every session.
- The proof against forged requests (`csrf_token`) is told from the token: a page of another site can make a browser send the cookie, but
  cannot read it, or what comes of it.
- Nothing is kept in memory: a session that was ended is ended everywhere at once.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from broadaxe_gateway.keysets import MasterKeyset
from broadaxe_storage.account_store import AccountStore
from broadaxe_storage.records_accounts import SessionRow, UserRow

LIFETIME_SECONDS = 30 * 24 * 3600
_TOKEN_BYTES = 32
_COOKIE_LENGTH = 87
"""Token and signature in base64 without padding, and a dot."""


class Person(NamedTuple):
    """Somebody who is signed in."""

    user: UserRow
    token: bytes
    """Of the session. Never to be logged."""

    def __repr__(self) -> str:
        return f"Person({self.user.id})"


def cookie_secrets(configured: Sequence[bytes], master: MasterKeyset) -> tuple[bytes, ...]:
    """The configured secrets, else some that are told from the master keys."""
    if configured:
        return tuple(configured)
    keys = sorted(master.keys, key=lambda key_id: key_id != master.primary_id)
    return tuple(_digest(master.keys[key_id], b"broadaxe session cookies") for key_id in keys)


class Sessions:
    """Begins, finds and ends sessions."""

    def __init__(
        self, store: AccountStore, signing: Sequence[bytes], *, now: Callable[[], float] = time.time
    ) -> None:
        """`signing`: secrets, of which the first signs and all verify."""
        assert signing, "without a secret anybody could sign"
        self._store = store
        self._signing = tuple(signing)
        self._now = now

    async def begin(self, user: UserRow) -> Person | None:
        """A new session of a user whose password was right; None if it was changed meanwhile."""
        token = secrets.token_bytes(_TOKEN_BYTES)
        now = self._now_us()
        row = SessionRow(_hash(token), user.id, now, now + LIFETIME_SECONDS * 1_000_000)
        return Person(user, token) if await self._store.insert_session(row, user.password_hash) else None

    async def find(self, cookie: str) -> Person | None:
        """Who a cookie stands for; None for a session that has ended, and for whatever is no cookie of ours."""
        token = self._token(cookie)
        user = None if token is None else await self._store.fetch_session_user(_hash(token), self._now_us())
        return None if token is None or user is None else Person(user, token)

    async def end(self, person: Person) -> None:
        await self._store.delete_session(_hash(person.token))

    def cookie(self, person: Person) -> str:
        """The value of the cookie."""
        return f"{_text(person.token)}.{_text(_digest(self._signing[0], person.token))}"

    def _token(self, cookie: str) -> bytes | None:
        """The token in a cookie that was signed here."""
        if len(cookie) != _COOKIE_LENGTH or not cookie.isascii():
            return None
        text, _, signature_text = cookie.partition(".")
        token, signature = _bytes(text), _bytes(signature_text)
        # Every secret is tried, so that the time tells nothing of which one it was.
        matches = [hmac.compare_digest(_digest(secret, token), signature) for secret in self._signing]
        return token if any(matches) and len(token) == _TOKEN_BYTES else None

    def _now_us(self) -> int:
        return int(self._now() * 1_000_000)


def csrf_token(person: Person) -> str:
    """What a request that changes something must show beside the cookie."""
    return _text(_digest(person.token, b"csrf"))


def is_csrf_token(person: Person, shown: str) -> bool:
    return hmac.compare_digest(csrf_token(person).encode(), shown.encode())


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _digest(key: bytes, content: bytes) -> bytes:
    return hmac.digest(key, content, "sha256")


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    """Empty for what is no base64."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
