"""Database settings from the environment."""

import pytest

from broadaxe_storage.config import DatabaseConfig, names_database, without_password
from broadaxe_storage.errors import InvalidConfig

URL = "postgresql://u:s3cret@db:5432/app"


def test_url_wins_and_the_rest_has_defaults() -> None:
    config = DatabaseConfig.from_env({"DATABASE_URL": URL, "DATABASE_POSTGRES_HOST": "other"})
    assert config == DatabaseConfig(url=URL)
    assert (config.session_url, config.replica_url) == (URL, "")


def test_url_is_built_from_its_parts_with_odd_characters_kept() -> None:
    config = DatabaseConfig.from_env(
        {
            "DATABASE_POSTGRES_HOST": "::1",
            "DATABASE_POSTGRES_PORT": "5433",
            "DATABASE_POSTGRES_USERNAME": "me@x",
            "DATABASE_POSTGRES_PASSWORD": "p/w:?",
            "DATABASE_POSTGRES_DB_NAME": "app",
            "DATABASE_POSTGRES_SSL_MODE": "require",
        }
    )
    assert config.url == "postgresql://me%40x:p%2Fw%3A%3F@[::1]:5433/app?sslmode=require"


def test_every_setting_is_read() -> None:
    config = DatabaseConfig.from_env(
        {
            "DATABASE_URL": URL,
            "DATABASE_DIRECT_URL": "postgres://direct/app",
            "DATABASE_PGBOUNCER_ENABLED": "true",
            "DATABASE_MAX_CONNS": "7",
            "DATABASE_MIN_CONNS": "2",
            "DATABASE_MAX_CONN_LIFETIME": "1m30s",
            "DATABASE_MAX_CONN_IDLE_TIME": "500ms",
            "DATABASE_LOG_QUERIES": "1",
            "READ_REPLICA_ENABLED": "yes",
            "READ_REPLICA_DATABASE_URL": "postgres://replica/app",
            "READ_REPLICA_MAX_CONNS": "4",
            "READ_REPLICA_MIN_CONNS": "1",
        }
    )
    assert config == DatabaseConfig(
        url=URL,
        direct_url="postgres://direct/app",
        is_pgbouncer=True,
        max_conns=7,
        min_conns=2,
        max_conn_lifetime_seconds=90,
        max_conn_idle_seconds=0.5,
        log_queries=True,
        replica_url="postgres://replica/app",
        replica_max_conns=4,
        replica_min_conns=1,
    )
    assert config.session_url == "postgres://direct/app"


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(InvalidConfig) as error:
        DatabaseConfig.from_env(
            {
                "DATABASE_URL": "mysql://u:s3cret@db/app",
                "DATABASE_PGBOUNCER_ENABLED": "maybe",
                "DATABASE_MAX_CONNS": "0",
                "DATABASE_MAX_CONN_LIFETIME": "15 minutes",
                "DATABASE_POSTGRES_SSL_MODE": "on",
                "READ_REPLICA_ENABLED": "true",
            }
        )
    text = "\n".join(error.value.problems)
    for name in (
        "DATABASE_URL",
        "DATABASE_PGBOUNCER_ENABLED is 'maybe'",
        "DATABASE_MAX_CONNS is '0'",
        "DATABASE_MAX_CONN_LIFETIME is '15 minutes'",
        "DATABASE_POSTGRES_SSL_MODE is 'on', expected one of disable, allow",
        "READ_REPLICA_DATABASE_URL is not set",
    ):
        assert name in text
    assert len(error.value.problems) == 6
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ({}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": URL, "DATABASE_PGBOUNCER_ENABLED": "true"}, "DATABASE_DIRECT_URL is not set"),
        (
            {"DATABASE_URL": URL, "DATABASE_MIN_CONNS": "20"},
            "DATABASE_MIN_CONNS is 20, above DATABASE_MAX_CONNS",
        ),
        ({"DATABASE_URL": "postgres://h:99999999/x"}, "DATABASE_URL has a port"),
    ],
)
def test_settings_that_do_not_fit_are_refused(env: dict[str, str], problem: str) -> None:
    with pytest.raises(InvalidConfig, match=problem):
        DatabaseConfig.from_env(env)


def test_the_embedded_server_stands_in_when_no_database_is_named() -> None:
    assert DatabaseConfig.from_env({}, embedded_url=URL).url == URL
    assert not names_database({"DATABASE_URL": ""})
    assert names_database({"DATABASE_POSTGRES_HOST": "db"})


def test_secrets_stay_out_of_repr() -> None:
    config = DatabaseConfig(url=URL, direct_url=URL, replica_url=URL)
    assert "s3cret" not in repr(config)
    assert without_password(URL) == "postgresql://u:***@db:5432/app"
    assert without_password("postgresql://u@/app?host=/run/pg&port=1") == "postgresql://u@/app?host=/run/pg"
