"""Passwords: hashed with argon2id, checked in constant time. Touches nothing else.

Hashing takes tens of milliseconds by design: call it off the event loop.
"""

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MIN_LENGTH = 8
MAX_LENGTH = 64

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
