"""What an administrator does to an installation without a server's help: create, list and revoke tokens, set retention periods, whether the server runs or not.

May lock the data directory, and start the embedded Postgres for as long as it takes.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from broadaxe_gateway.addresses import audience, local_address
from broadaxe_gateway.config import ServerConfig
from broadaxe_gateway.database import ensure_seed, open_store
from broadaxe_gateway.datadir import DataDirError, DataDirInUse, DataDirLock, Holder, read_holder
from broadaxe_gateway.keysets import KeysetError, open_keysets
from broadaxe_gateway.rpc.convert.checks import find_uuid
from broadaxe_gateway.tenant_settings import HOUR_US, LONGEST_US, duration_text
from broadaxe_gateway.tokens import (
    DEFAULT_LIFETIME_SECONDS,
    TokenService,
    UnknownTenant,
    is_uuid,
    parse_lifetime,
)
from broadaxe_storage.errors import StorageError
from broadaxe_storage.postgres import PostgresStore
from broadaxe_storage.records_accounts import ApiTokenRow

__all__ = [
    "EXPECTED_ERRORS",
    "create_token",
    "list_tokens",
    "parse_lifetime",
    "parse_retention",
    "revoke_token",
    "tenant_retention",
]

EXPECTED_ERRORS = (DataDirError, KeysetError, StorageError, UnknownTenant, ValueError)
"""What the caller or the world can do wrong: told in a line, without a traceback."""

WAIT_SECONDS = 90.0
"""For a server that is starting or stopping, or another command."""
LOOK_SECONDS = 0.05
MAX_LISTED = 1_000


async def create_token(
    config: ServerConfig,
    *,
    tenant_id: str | None = None,
    name: str = "token",
    lifetime_seconds: float = DEFAULT_LIFETIME_SECONDS,
) -> str:
    """A new token of a tenant (default: the default tenant), for the addresses that are configured, else those of the data directory's server.

    Raises `DataDirError`, `StorageError`, `KeysetError`, `UnknownTenant`, `ValueError`.
    """
    async with _installation(config, tenant_id) as (tokens, _, tenant):
        return await tokens.issue(tenant, name, lifetime_seconds)


async def list_tokens(config: ServerConfig, *, tenant_id: str | None = None) -> list[ApiTokenRow]:
    """Tokens of a tenant (default: the default tenant) that are not revoked, the newest first. Raises as `create_token`."""
    async with _installation(config, tenant_id) as (_, store, tenant):
        return await store.list_tokens(tenant, MAX_LISTED)


async def revoke_token(config: ServerConfig, token_id: str, *, tenant_id: str | None = None) -> None:
    """Revoke a token of a tenant (default: the default tenant). A server that runs notices at the token's next use, within seconds.

    Raises as `create_token`, and `ValueError` if the tenant has no such token.
    """
    try:
        token_id = str(uuid.UUID(token_id))
    except ValueError:
        raise ValueError(f"{token_id!r} is not the id of a token: `broadaxe token list` shows them") from None
    async with _installation(config, tenant_id) as (tokens, _, tenant):
        if not await tokens.revoke(tenant, token_id):
            raise ValueError(
                f"tenant {tenant} has no token {token_id}: `broadaxe token list` shows those that it has"
            )


@asynccontextmanager
async def _installation(
    config: ServerConfig, tenant_id: str | None
) -> AsyncIterator[tuple[TokenService, PostgresStore, str]]:
    """The tokens and the record of an installation, and the id of the tenant that is meant."""
    async with AsyncExitStack() as stack:
        holder, is_running = await _enter_data_dir(config, stack)
        keysets = open_keysets(config.data_dir, config.jwt_keyset, config.master_keyset)
        store = await open_store(config, stack, keeps_running=is_running)
        if tenant_id is None:
            tenant_id = (await ensure_seed(store, config.seed)).id
        elif not is_uuid(tenant_id) or await store.fetch_tenant(tenant_id) is None:
            raise UnknownTenant(f"tenant {tenant_id!r} does not exist")
        tokens = TokenService(
            store,
            keysets.jwt,
            audience(
                config,
                grpc_broadcast_address=holder.grpc_broadcast_address
                or local_address(config.grpc.bind_address, config.grpc.port),
                server_url=holder.server_url
                or f"http://{local_address(config.http.bind_address, config.http.port)}",
            ),
        )
        yield tokens, store, tenant_id


class Retention(NamedTuple):
    """A retention period to set; None is the default of the server."""

    period_us: int | None


def parse_retention(text: str) -> Retention:
    """Of `default`, or of a duration such as `168h` or `7d`. Raises `ValueError` saying what is expected."""
    if text == "default":
        return Retention(None)
    period = round(parse_lifetime(text) * 1_000_000)
    if not HOUR_US <= period <= LONGEST_US:
        raise ValueError(f"a retention period of {text} is not possible: expected from 1h to 87600h")
    return Retention(period)


async def tenant_retention(config: ServerConfig, tenant: str, change: Retention | None) -> str:
    """For how long ended runs and events of a tenant, by slug or id, are kept; set first if there is a change.

    Raises `DataDirError`, `StorageError`, `UnknownTenant`.
    """
    async with AsyncExitStack() as stack:
        _, is_running = await _enter_data_dir(config, stack)
        store = await open_store(config, stack, keeps_running=is_running)
        found = await store.fetch_tenant_by_slug(tenant)
        if found is None and (tenant_id := find_uuid(tenant)) is not None:
            found = await store.fetch_tenant(tenant_id)
        if found is None:
            raise UnknownTenant(f"no tenant has the slug or id {tenant!r}")
        if change is not None:
            await store.retention.set_period(found.id, change.period_us)
        own = await store.retention.fetch_period(found.id)
        if own is None:
            return f"{duration_text(config.retention.period_us)} (the default)"
        return duration_text(own)


async def _enter_data_dir(config: ServerConfig, stack: AsyncExitStack) -> tuple[Holder, bool]:
    """The directory's last or present server, and whether it runs; if it does not, the directory is ours until `stack` closes."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            lock = DataDirLock.acquire(config.data_dir, is_server=False)
        except DataDirInUse as error:
            holder = read_holder(config.data_dir)
            if holder.is_server and holder.is_ready:
                return holder, True
            if time.monotonic() > deadline:
                raise DataDirError(
                    f"data directory {config.data_dir}: its server (pid {error.pid}) is neither ready nor gone after "
                    f"{WAIT_SECONDS:.0f} s; see its log"
                ) from error
            # Another process's file lock gives no event to wait for.
            await asyncio.sleep(LOOK_SECONDS)
        else:
            stack.callback(lock.release)
            return lock.holder, False
