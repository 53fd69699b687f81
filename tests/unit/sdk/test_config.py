"""Where settings come from, and what is said when they are wrong."""

import json
from http import HTTPMethod

import pytest

from broadaxe import (
    Broadaxe,
    ClientConfig,
    ClientTLSConfig,
    ConfigurationError,
    HealthcheckConfig,
    TenacityConfig,
)
from broadaxe._config import load_settings, profile_path
from tests.unit.sdk.clients import TOKEN, make_token


def test_argument_beats_environment_beats_token():
    env = {"BROADAXE_CLIENT_TOKEN": TOKEN, "BROADAXE_CLIENT_HOST_PORT": "env:1"}
    assert load_settings(ClientConfig(host_port="arg:2"), env).host_port == "arg:2"
    assert load_settings(ClientConfig(), env).host_port == "env:1"
    assert load_settings(ClientConfig(token=TOKEN), {}).host_port == "localhost:7070"


def test_own_variables_beat_the_documented_fallback_names():
    env = {
        "HATCHET_CLIENT_TOKEN": TOKEN,
        "HATCHET_CLIENT_NAMESPACE": "theirs",
        "BROADAXE_CLIENT_NAMESPACE": "ours",
    }
    assert load_settings(ClientConfig(), env).namespace == "ours_"
    del env["BROADAXE_CLIENT_NAMESPACE"]
    assert load_settings(ClientConfig(), env).namespace == "theirs_"


def write_profile(home, **fields):
    path = home / "profiles" / "local.json"
    path.parent.mkdir(parents=True)
    path.write_text(
        json.dumps(
            {
                "token": TOKEN,
                "grpc_address": "127.0.0.1:7171",
                "server_url": "http://127.0.0.1:8181",
                "tls_strategy": "none",
                **fields,
            }
        )
    )


def test_local_profile_is_enough(tmp_path):
    write_profile(tmp_path)
    settings = load_settings(ClientConfig(), {"BROADAXE_HOME": str(tmp_path)})
    assert (settings.host_port, settings.tls.strategy) == ("127.0.0.1:7171", "none")
    assert settings.server_url == "http://127.0.0.1:8181"


def test_local_profile_is_not_mixed_with_a_token_from_elsewhere(tmp_path):
    write_profile(tmp_path)
    settings = load_settings(ClientConfig(token=make_token()), {"BROADAXE_HOME": str(tmp_path)})
    assert (settings.host_port, settings.tls.strategy) == ("localhost:7070", "tls")


def test_missing_token_says_the_three_ways_to_give_one(tmp_path):
    env = {"BROADAXE_HOME": str(tmp_path)}
    with pytest.raises(ConfigurationError, match="BROADAXE_CLIENT_TOKEN") as caught:
        load_settings(ClientConfig(), env)
    assert "broadaxe server start" in str(caught.value)
    assert str(profile_path(env)) in str(caught.value)


@pytest.mark.parametrize("token", ["nonsense", "a.b.c", "ey.e30"])
def test_malformed_token_is_told_without_repeating_it(token):
    with pytest.raises(ConfigurationError, match="not a token") as caught:
        load_settings(ClientConfig(token=token), {})
    assert token not in str(caught.value)


def test_all_problems_are_told_at_once():
    env = {
        "BROADAXE_CLIENT_TLS_STRATEGY": "ssl",
        "BROADAXE_CLIENT_GRPC_MAX_RECV_MESSAGE_LENGTH": "big",
        "BROADAXE_CLIENT_WORKER_HEALTHCHECK_ENABLED": "maybe",
    }
    with pytest.raises(ConfigurationError) as caught:
        load_settings(ClientConfig(token=TOKEN), env)
    for text in ("'ssl'", "'big'", "'maybe'", "tls, mtls, none"):
        assert text in str(caught.value)


def test_scheme_and_trailing_slash_of_the_address_are_dropped():
    assert load_settings(ClientConfig(token=TOKEN, host_port="https://x:443/"), {}).host_port == "x:443"


def test_mtls_needs_certificate_and_key(tmp_path):
    tls = ClientTLSConfig(strategy="mtls", cert_file=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigurationError, match=r"none\.pem.*cannot be read.*TLS_KEY_FILE"):
        load_settings(ClientConfig(token=TOKEN, tls_config=tls), {})


def test_tls_material_is_read_from_files_or_text(tmp_path):
    (tmp_path / "ca.pem").write_text("CA")
    env = {"HATCHET_CLIENT_TLS_ROOT_CA_FILE": str(tmp_path / "ca.pem"), "HATCHET_CLIENT_TLS_CERT": "CERT"}
    tls = load_settings(ClientConfig(token=TOKEN), env).tls
    assert (tls.strategy, tls.root_ca, tls.cert) == ("tls", b"CA", b"CERT")


def test_healthcheck_and_labels_from_the_environment():
    env = {
        "BROADAXE_CLIENT_WORKER_HEALTHCHECK_ENABLED": "True",
        "HATCHET_CLIENT_WORKER_HEALTHCHECK_PORT": "9000",
        "BROADAXE_CLIENT_WORKER_PRESET_LABELS": "gpu=a100, memory=512",
    }
    settings = load_settings(
        ClientConfig(token=TOKEN, healthcheck=HealthcheckConfig(event_loop_block_threshold_seconds=2)), env
    )
    assert settings.healthcheck.enabled
    assert settings.healthcheck.port == 9000
    assert settings.healthcheck.event_loop_block_threshold_seconds == 2
    assert settings.worker_preset_labels == {"gpu": "a100", "memory": 512}


def test_secrets_are_not_shown():
    settings = load_settings(ClientConfig(token=TOKEN), {})
    assert TOKEN not in repr(settings) + repr(ClientConfig(token=TOKEN)) + repr(Broadaxe(token=TOKEN))


def test_a_client_needs_no_settings_until_it_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("BROADAXE_HOME", str(tmp_path))
    for name in ("BROADAXE_CLIENT_TOKEN", "HATCHET_CLIENT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    client = Broadaxe()
    with pytest.raises(ConfigurationError):
        _ = client.settings


def test_retries_of_calls_are_set_by_argument_or_variable():
    env = {
        "HATCHET_CLIENT_TOKEN": TOKEN,
        "HATCHET_CLIENT_TENACITY_MAX_ATTEMPTS": "3",
        "BROADAXE_CLIENT_TENACITY_RETRY_429": "true",
        "HATCHET_CLIENT_TENACITY_RETRY_TRANSPORT_ERRORS": "true",
        "HATCHET_CLIENT_TENACITY_RETRY_TRANSPORT_METHODS": '["GET", "POST"]',
    }
    read = load_settings(ClientConfig(), env).retries
    assert (read.max_attempts, read.retry_429, read.retry_transport_errors) == (3, True, True)
    assert read.retry_transport_methods == {HTTPMethod.GET, HTTPMethod.POST}
    given = TenacityConfig(max_attempts=0, retry_429=False, retry_transport_methods=[HTTPMethod.PUT])
    read = load_settings(ClientConfig(tenacity=given), env).retries
    assert (read.max_attempts, read.retry_429, read.retry_transport_errors) == (1, False, True)
    assert read.retry_transport_methods == {HTTPMethod.PUT}
    read = load_settings(ClientConfig(token=TOKEN), {}).retries
    assert (read.max_attempts, read.retry_429, read.retry_transport_errors) == (5, False, False)
    assert read.retry_transport_methods == {HTTPMethod.GET, HTTPMethod.DELETE}


def test_retries_that_cannot_be_are_refused_all_at_once():
    env = {
        "HATCHET_CLIENT_TENACITY_MAX_ATTEMPTS": "-1",
        "HATCHET_CLIENT_TENACITY_RETRY_TRANSPORT_METHODS": "GET,FETCH",
    }
    with pytest.raises(ConfigurationError, match=r"MAX_ATTEMPTS is -1.*'FETCH': expected some of") as caught:
        load_settings(ClientConfig(token=TOKEN), env)
    assert "0 or more" in str(caught.value)
