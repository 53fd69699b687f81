"""Fixtures of the gateway's tests that need a database."""

import pytest

from broadaxe_storage.embedded import EmbeddedPostgres


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data directory whose embedded Postgres stays up for the module."""
    path = tmp_path_factory.mktemp("data")
    yield path
    EmbeddedPostgres.start(path).stop()
