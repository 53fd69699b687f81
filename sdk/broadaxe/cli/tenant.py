"""`broadaxe tenant`: tenants of an installation. Imports the gateway when a command runs."""

import asyncio
import sys

import click

from broadaxe.cli import raise_missing
from broadaxe.cli.server import load_server_config


@click.group()
def tenant() -> None:
    """Tenants."""


@tenant.command()
@click.argument("tenant")
@click.option("--period", help="Keep for so long, such as 168h or 7d; `default`: as long as the server says.")
@click.option("--data-dir", help="The server's data directory (BROADAXE_DATA_DIR).")
@click.option("--config", help="TOML file of settings, named as in the environment (BROADAXE_CONFIG).")
def retention(tenant: str, period: str | None, data_dir: str | None, config: str | None) -> None:
    """Show, or set, for how long ended runs and events of a tenant are kept. TENANT is its slug or id.

    Works whether the server runs or not, given the same data directory and database settings. A period that was set counts from the next
    deletion on, which is within a day.
    """
    server_config = load_server_config({"data_dir": data_dir, "config": config})
    try:
        from broadaxe_gateway.admin import EXPECTED_ERRORS, parse_retention, tenant_retention
    except ModuleNotFoundError as error:
        raise_missing("tenant retention", error)
    try:
        change = None if period is None else parse_retention(period)
        shown = asyncio.run(tenant_retention(server_config, tenant, change))
    except EXPECTED_ERRORS as error:
        click.echo(f"broadaxe: {error}", err=True)
        sys.exit(1)
    click.echo(shown)
