"""`broadaxe token`: API tokens of an installation. Imports the gateway when a command runs."""

import asyncio
import sys

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
    server_config = load_server_config({"data_dir": data_dir, "config": config})
    try:
        from broadaxe_gateway.admin import EXPECTED_ERRORS, create_token
        from broadaxe_gateway.tokens import parse_lifetime
    except ModuleNotFoundError as error:
        raise_missing("token create", error)
    try:
        created = asyncio.run(
            create_token(
                server_config,
                tenant_id=tenant_id,
                name=name,
                lifetime_seconds=parse_lifetime(expires_in),
            )
        )
    except EXPECTED_ERRORS as error:
        click.echo(f"broadaxe: {error}", err=True)
        sys.exit(1)
    click.echo(created)
