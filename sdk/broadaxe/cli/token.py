"""`broadaxe token`: API tokens of an installation. Imports the gateway when a command runs."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any, NoReturn

import click

from broadaxe.cli import raise_missing
from broadaxe.cli.server import load_server_config


@click.group()
def token() -> None:
    """API tokens."""


@token.command()
@click.option("--tenant-id", help="Whose token; the default tenant's if not given.")
@click.option("--name", default="token", show_default=True, help="What to call it in lists.")
@click.option("--expires-in", default="90d", show_default=True, help="Lifetime, such as 90d, 720h or 30m.")
@click.option("--data-dir", help="The server's data directory (BROADAXE_DATA_DIR).")
@click.option("--config", help="TOML file of settings, named as in the environment (BROADAXE_CONFIG).")
def create(
    tenant_id: str | None, name: str, expires_in: str, data_dir: str | None, config: str | None
) -> None:
    """Create a token and print it, alone, on standard output.

    Works whether the server runs or not, given the same data directory and database settings.
    """
    gateway, server_config = _gateway("token create", data_dir, config)
    try:
        lifetime_seconds = gateway.parse_lifetime(expires_in)
        created = asyncio.run(
            gateway.create_token(
                server_config, tenant_id=tenant_id, name=name, lifetime_seconds=lifetime_seconds
            )
        )
    except gateway.EXPECTED_ERRORS as error:
        _fail(error)
    click.echo(created)


@token.command(name="list")
@click.option("--tenant-id", help="Whose tokens; the default tenant's if not given.")
@click.option("--data-dir", help="The server's data directory (BROADAXE_DATA_DIR).")
@click.option("--config", help="TOML file of settings, named as in the environment (BROADAXE_CONFIG).")
def list_(tenant_id: str | None, data_dir: str | None, config: str | None) -> None:
    """List the tokens that are not revoked, newest first: id, end of life, name. The tokens themselves are stored nowhere."""
    gateway, server_config = _gateway("token list", data_dir, config)
    try:
        rows = asyncio.run(gateway.list_tokens(server_config, tenant_id=tenant_id))
    except gateway.EXPECTED_ERRORS as error:
        _fail(error)
    for row in rows:
        ends = datetime.fromtimestamp(row.expires_at // 1_000_000, UTC)
        click.echo(f"{row.id}  {ends:%Y-%m-%d %H:%M}  {row.name}")


@token.command()
@click.argument("token_id")
@click.option("--tenant-id", help="Whose token; the default tenant's if not given.")
@click.option("--data-dir", help="The server's data directory (BROADAXE_DATA_DIR).")
@click.option("--config", help="TOML file of settings, named as in the environment (BROADAXE_CONFIG).")
def revoke(token_id: str, tenant_id: str | None, data_dir: str | None, config: str | None) -> None:
    """Revoke a token by its id, for good. A server that runs notices at the token's next use, within seconds."""
    gateway, server_config = _gateway("token revoke", data_dir, config)
    try:
        asyncio.run(gateway.revoke_token(server_config, token_id, tenant_id=tenant_id))
    except gateway.EXPECTED_ERRORS as error:
        _fail(error)
    click.echo(f"revoked {token_id}", err=True)


def _gateway(command: str, data_dir: str | None, config: str | None) -> tuple[Any, Any]:
    """What the commands use of the gateway, and the settings. Says which extra is missing where it is not installed."""
    server_config = load_server_config({"data_dir": data_dir, "config": config})
    try:
        from broadaxe_gateway import admin
    except ModuleNotFoundError as error:
        raise_missing(command, error)
    return admin, server_config


def _fail(error: Exception) -> NoReturn:
    click.echo(f"broadaxe: {error}", err=True)
    sys.exit(1)
