"""Passwords: hashed with argon2id, checked in constant time. Touches nothing but threads of its own.

Hashing takes tens of milliseconds by design: on an event loop use `PasswordWork`.
"""

import asyncio
import functools
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from broadaxe_actors.errors import Code, Refused

MIN_LENGTH = 8
MAX_LENGTH = 64

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

_hasher = PasswordHasher()


def password_problem(password: str) -> str | None:
    """Why a password is not accepted, or None. The rule is the wire document's (rest 11)."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        return f"must have {MIN_LENGTH} to {MAX_LENGTH} characters"
    for is_met, missing in (
        (any(c.isupper() for c in password), "an upper-case letter"),
        (any(c.islower() for c in password), "a lower-case letter"),
        (any(c.isdigit() for c in password), "a digit"),
    ):
        if not is_met:
            return f"must contain {missing}"
    return None


def hash_password(password: str) -> str:
    """The hash to store, with its parameters and salt in it."""
    return _hasher.hash(password)


def is_password(password: str, stored_hash: str) -> bool:
    """Whether the password belongs to the hash. False, too, for a hash that is not argon2."""
    try:
        return _hasher.verify(stored_hash, password)
    except (VerificationError, InvalidHashError):
        return False


class PasswordWork:
    """Hashes and checks in threads of its own, a few at once: each takes a core and 64 MB for a while.

    May be used on one loop. Past `most_waiting` it refuses, so that a flood of sign-ins costs nobody else.
    """

    def __init__(self, *, at_once: int = 2, most_waiting: int = 64) -> None:
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="passwords")
        self._most_waiting = most_waiting
        self._waiting = 0
        self._decoy: str | None = None

    async def hash(self, password: str) -> str:
        """The hash to store. Raises `Refused` (RESOURCE_EXHAUSTED)."""
        return await self._run(hash_password, password)

    async def is_password(self, password: str, stored_hash: str | None) -> bool:
        """Whether the password belongs to the hash. Without a hash it is false, after the same work. Raises as `hash`."""
        if self._decoy is None:
            self._decoy = await self._run(hash_password, secrets.token_hex(16))
        matches = await self._run(is_password, password, stored_hash or self._decoy)
        return matches and stored_hash is not None

    def close(self) -> None:
        """What is being hashed is hashed to the end, what waits is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[*_Args], _T], *args: *_Args) -> _T:
        if self._waiting >= self._most_waiting:
            raise Refused(Code.RESOURCE_EXHAUSTED, "too many people sign in at the moment: try again")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, functools.partial(work, *args)
            )
        finally:
            self._waiting -= 1
