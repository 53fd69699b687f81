"""The text for a server that cannot be reached says what to look at."""

import pytest

from broadaxe._config import ClientConfig, ClientTLSConfig, load_settings
from broadaxe._transport.channel import unavailable_text

TOKEN = "e30.eyJzdWIiOiJ4IiwiZ3JwY19icm9hZGNhc3RfYWRkcmVzcyI6ImE6MSJ9.x"


@pytest.mark.parametrize(
    ("strategy", "details", "hint"),
    [
        (
            "tls",
            "SSL routines: CERTIFICATE_VERIFY_FAILED: self signed",
            "set BROADAXE_CLIENT_TLS_ROOT_CA_FILE or",
        ),
        (
            "tls",
            "SSL routines: WRONG_VERSION_NUMBER",
            "It serves no TLS: set BROADAXE_CLIENT_TLS_STRATEGY=none.",
        ),
        ("tls", "Connection refused", "Is it running? If it serves no TLS"),
        ("none", "Connection refused", "Is it running? If it serves TLS"),
    ],
)
def test_hint_fits_the_cause(strategy, details, hint):
    settings = load_settings(
        ClientConfig(token=TOKEN, tls_config=ClientTLSConfig(strategy=strategy)), {"BROADAXE_HOME": "/nobody"}
    )
    text = unavailable_text("trigger", details, settings)
    assert text.startswith("trigger: the server at a:1 cannot be reached")
    assert hint in text
    assert text.endswith(".")
