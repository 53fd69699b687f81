"""The REST application over fakes."""

import pytest

from tests.gateway.rest.fakes import Rest


@pytest.fixture
async def rest():
    made = Rest()
    yield made
    await made.client.aclose()
