"""API tokens: ES256 JWTs with the claims that SDKs read, issued and checked here.

May touch token and tenant rows, through the store's `DirectoryStore`; knows nothing of gRPC or HTTP. Facts to know:

- Only the server verifies a token. SDKs decode it to learn the tenant (`sub`), the REST address (`server_url`) and the gRPC address
  (`grpc_broadcast_address`); Go needs `exp` to be a number.
- Whatever is wrong with a token, the caller learns one generic text; the reason goes to the log.
- A token once found good is kept in memory under the digest of its text. Its expiry is compared at each use; its row is read again at
  most every `RECHECK_SECONDS`, and only for calls that count as activity: heartbeats of idle workers ask Postgres nothing.
- While Postgres is away, tokens already known stay good: a worker's report must not be refused for that.
"""

import asyncio
import hashlib
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import jwt

from broadaxe_actors.definitions import duration_us
from broadaxe_actors.errors import Code, EngineError, Refused
from broadaxe_gateway.keysets import Keyset
from broadaxe_storage.errors import Unavailable
from broadaxe_storage.records_accounts import ApiTokenRow
from broadaxe_storage.store import DirectoryStore

logger = logging.getLogger("broadaxe.tokens")

ALGORITHM = "ES256"
DEFAULT_LIFETIME_SECONDS = 90 * 24 * 3600
MAX_LIFETIME_SECONDS = 100 * 366 * 24 * 3600
RECHECK_SECONDS = 5.0
RECHECK_WAIT_SECONDS = 1.0
"""A look at the row that takes longer is not waited for: the token stays as it was until the answer comes."""
LEEWAY_SECONDS = 10
"""Clocks of two gateways may differ by this much."""
MAX_CACHED = 10_000


class Unauthenticated(EngineError):
    """The token is missing, malformed, expired, revoked or not of this server. `reason` is for the log, not for the caller."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnknownTenant(EngineError):
    """A token was asked for a tenant that does not exist."""


class Identity(NamedTuple):
    """Whom a token stands for."""

    tenant_id: str
    token_id: str
    expires_at: int
    """Microseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Audience:
    """What this server writes into tokens and expects in them."""

    server_url: str
    grpc_broadcast_address: str
    is_port_compared: bool = True
    """False when the URL is only a default: a token then outlives a change of the port."""

    def accepts(self, claim: object) -> bool:
        if not isinstance(claim, str):
            return False
        if self.is_port_compared:
            return claim.rstrip("/") == self.server_url.rstrip("/")
        try:
            theirs, ours = urlsplit(claim), urlsplit(self.server_url)
        except ValueError:
            return False
        return (theirs.scheme, theirs.hostname) == (ours.scheme, ours.hostname)


@dataclass(slots=True)
class _Known:
    identity: Identity | None
    """None for a token whose row was found revoked or missing."""
    checked_at: float
    recheck: asyncio.Task[None] | None = None


class TokenService:
    """Issues, verifies and revokes tokens. Lives on one loop.

    `now` is wall time and `monotonic` a steady clock, both in seconds.
    """

    def __init__(
        self,
        store: DirectoryStore,
        keyset: Keyset,
        audience: Audience,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._keyset = keyset
        self._audience = audience
        self._now = now
        self._monotonic = monotonic
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._revoked: OrderedDict[str, None] = OrderedDict()
        """Ids of tokens revoked here, those last."""
        self.on_revoked: Callable[[str], None] = _ignore
        """Told the id of a token that is found to count no more: what it has open is to end."""

    async def issue(self, tenant_id: str, name: str, expires_in: float = DEFAULT_LIFETIME_SECONDS) -> str:
        """A new token of a tenant, stored and committed; `expires_in` is in seconds.

        Raises `UnknownTenant`, `ValueError` for a lifetime that is not positive or above a century, and what the store raises.
        """
        if not 0 < expires_in <= MAX_LIFETIME_SECONDS:
            raise ValueError(
                f"a token cannot live for {expires_in:g} s: expected more than 0 and at most 100 years"
            )
        if not is_uuid(tenant_id) or await self._store.fetch_tenant(tenant_id) is None:
            raise UnknownTenant(f"tenant {tenant_id!r} does not exist")
        issued_at = int(self._now())
        expires_at = issued_at + max(1, int(expires_in))
        token_id = str(uuid.uuid4())
        await self._store.insert_token(
            ApiTokenRow(
                id=token_id,
                tenant_id=tenant_id,
                name=name,
                created_at=issued_at * 1_000_000,
                expires_at=expires_at * 1_000_000,
                revoked_at=None,
            )
        )
        claims = {
            "sub": tenant_id,
            "aud": self._audience.server_url,
            "iss": self._audience.server_url,
            "iat": issued_at,
            "exp": expires_at,
            "token_id": token_id,
            "server_url": self._audience.server_url,
            "grpc_broadcast_address": self._audience.grpc_broadcast_address,
        }
        return jwt.encode(
            claims, self._keyset.signing_key, algorithm=ALGORITHM, headers={"kid": self._keyset.signing_id}
        )

    async def verify(self, token: str, *, is_activity: bool = True) -> Identity:
        """Whom the token stands for.

        Args:
            token: the JWT, without a scheme.
            is_activity: False for calls that an idle worker makes (heartbeats): a known token is then not looked up again.

        Raises `Unauthenticated`, or `Refused` with UNAVAILABLE when the token is new here and the database cannot be reached.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is None:
            known = await self._learn(digest, token)
        elif is_activity and self._monotonic() - known.checked_at >= RECHECK_SECONDS:
            await self._recheck(known, token)
        identity = known.identity
        if identity is None:
            raise Unauthenticated("the token was revoked or is not stored")
        if identity.expires_at <= self._now() * 1_000_000:
            raise Unauthenticated(f"token {identity.token_id} has expired")
        return identity

    async def revoke(self, tenant_id: str, token_id: str) -> bool:
        """Revoke a tenant's token; it stops working here at once, and at other gateways within `RECHECK_SECONDS`. False if there is none."""
        is_found = await self._store.revoke_token(tenant_id, token_id, int(self._now() * 1_000_000))
        if is_found:
            # A look at the row that began before this may still end after it.
            self._revoked[token_id] = None
            if len(self._revoked) > MAX_CACHED:
                self._revoked.popitem(last=False)
            for known in self._known.values():
                if known.identity is not None and known.identity.token_id == token_id:
                    known.identity = None
            self.on_revoked(token_id)
        return is_found

    async def _learn(self, digest: bytes, token: str) -> _Known:
        claims = self._decode(token)
        checked_at = self._monotonic()
        try:
            identity = await self._look_up(claims)
        except Unavailable as error:
            raise Refused(
                Code.UNAVAILABLE, "the database cannot be reached to check the API token: try again"
            ) from error
        known = self._known[digest] = _Known(identity, checked_at)
        if len(self._known) > MAX_CACHED:
            self._known.popitem(last=False)
        return known

    async def _recheck(self, known: _Known, token: str) -> None:
        # One look for all callers; the time is set first, so that a slow database is asked once in `RECHECK_SECONDS`.
        if known.recheck is None or known.recheck.done():
            known.checked_at = self._monotonic()
            known.recheck = asyncio.create_task(self._look_again(known, token))
        await asyncio.wait({known.recheck}, timeout=RECHECK_WAIT_SECONDS)

    async def _look_again(self, known: _Known, token: str) -> None:
        before = known.identity
        try:
            known.identity = await self._look_up(self._decode(token))
        except Unauthenticated:
            known.identity = None
        except Unavailable as error:
            logger.warning("an API token could not be checked again and is taken as it was: %s", error)
        if known.identity is None and before is not None:
            self.on_revoked(before.token_id)

    async def _look_up(self, claims: dict[str, Any]) -> Identity | None:
        """The identity if the stored row agrees with the claims, else None."""
        row = await self._store.fetch_token(claims["token_id"])
        if row is None or row.revoked_at is not None or row.tenant_id != claims["sub"]:
            return None
        if row.id in self._revoked:
            return None
        return Identity(row.tenant_id, row.id, min(row.expires_at, claims["exp"] * 1_000_000))

    def _decode(self, token: str) -> dict[str, Any]:
        if not token.isascii():
            raise Unauthenticated("the token is not ASCII text")
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = self._keyset.verifying.get(kid) if isinstance(kid, str) else None
            if key is None:
                raise Unauthenticated(f"the token is signed with an unknown key {kid!r}")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                leeway=0,
                options={
                    "require": ["sub", "aud", "iss", "iat", "exp", "token_id"],
                    "verify_aud": False,  # compared below, without the port where that is a default
                    "verify_iss": False,
                    "verify_iat": False,  # compared below with leeway, which must not prolong `exp`
                    "verify_exp": False,  # `verify` compares it with our clock
                },
            )
        except jwt.InvalidTokenError as error:
            raise Unauthenticated(f"the token is not valid: {error}") from error
        for name in ("aud", "iss", *(["server_url"] if "server_url" in claims else [])):
            if not self._audience.accepts(claims[name]):
                raise Unauthenticated(
                    f"the token's {name} is {claims[name]!r}, this server's {self._audience.server_url!r}"
                )
        issued_at, expires_at = claims["iat"], claims["exp"]
        if not _is_time(issued_at) or not _is_time(expires_at):
            raise Unauthenticated("the token's times are not numbers")
        if issued_at > self._now() + LEEWAY_SECONDS:
            raise Unauthenticated("the token is issued in the future")
        claims["exp"] = int(expires_at)
        for name in ("sub", "token_id"):
            if not is_uuid(claims[name]):
                raise Unauthenticated(f"the token's {name} is not a UUID")
            claims[name] = str(uuid.UUID(claims[name]))
        return claims


def _ignore(_: str) -> None:
    """Nobody is told."""


def is_uuid(value: object) -> bool:
    try:
        uuid.UUID(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return True


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53


def parse_lifetime(text: str) -> float:
    """Seconds of a lifetime such as `90d`, `720h` or `1h30m`. Raises `ValueError` saying what is expected."""
    days = text[:-1]
    if text.endswith("d") and days.isdecimal():
        return int(days) * 86_400.0
    try:
        return duration_us(text) / 1_000_000
    except ValueError:
        raise ValueError(f"{text!r} is not a lifetime: expected such as 90d, 720h or 30m") from None
