"""`broadaxe server`: run the engine in the foreground. Imports the gateway when a command runs."""

import os
import sys
from typing import Any

import click

from broadaxe.cli import raise_missing


def load_server_config(flags: dict[str, Any]) -> Any:
    """The server's configuration from flags, environment and file; ends the command with a line a problem when it is not usable."""
    try:
        from broadaxe_gateway.config import load_config
        from broadaxe_gateway.settings import ConfigError
    except ModuleNotFoundError as error:
        raise_missing(click.get_current_context().command_path.removeprefix("broadaxe "), error)
    try:
        return load_config(os.environ, flags)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"broadaxe: {problem}", err=True)
        sys.exit(1)


@click.group()
def server() -> None:
    """Run the engine."""


@server.command(short_help="Run a server until SIGTERM or SIGINT.")
@click.option(
    "--grpc-port", type=int, help="Port for workers and clients (SERVER_GRPC_PORT, 7070); 0: a free one."
)
@click.option(
    "--http-port", type=int, help="Port for REST, health and metrics (SERVER_PORT, 8080); 0: a free one."
)
@click.option("--data-dir", help="Keys, lock and embedded Postgres (BROADAXE_DATA_DIR).")
@click.option("--host", help="Address to listen on (BROADAXE_HOST, 127.0.0.1).")
@click.option("--config", help="TOML file of settings, named as in the environment (BROADAXE_CONFIG).")
@click.option(
    "--keep-postgres",
    is_flag=True,
    default=None,
    help="Leave the embedded Postgres running on a graceful stop (BROADAXE_KEEP_POSTGRES).",
)
def start(**flags: Any) -> None:
    """Run a server until SIGTERM or SIGINT; prints one line when it is ready.

    Flags win over environment variables, which win over the file. With neither DATABASE_URL nor DATABASE_POSTGRES_HOST set, the server
    runs a Postgres of its own in the data directory.
    """
    config = load_server_config(flags)
    try:
        from broadaxe_gateway.server import run
    except ModuleNotFoundError as error:
        raise_missing("server start", error)
    sys.exit(run(config))
