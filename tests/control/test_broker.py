"""The broker settings as Faust and aiokafka take them."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from streams.control.broker import broker_options
from streams.errors import ConfigurationError
from streams.settings import KafkaSettings, Settings


def _auth(**kafka: Any) -> tuple[list[str], dict[str, Any]]:
    options = broker_options(Settings(kafka=KafkaSettings(bootstrap_servers="one:9092,two:9093", **kafka)))
    return options["broker"], dict(credentials_to_aiokafka_auth(options["broker_credentials"]))


def test_plain() -> None:
    """All addresses are passed on; without security nothing else is."""
    assert _auth() == (["aiokafka://one:9092", "aiokafka://two:9093"], {"security_protocol": "PLAINTEXT"})


def test_tls() -> None:
    """TLS verifies the broker and its name, unless librdkafka's own settings say not to."""
    _, auth = _auth(security_protocol="SSL")
    assert auth["security_protocol"] == "SSL"
    assert auth["ssl_context"].verify_mode == ssl.CERT_REQUIRED
    assert auth["ssl_context"].check_hostname
    _, auth = _auth(security_protocol="SSL", extra={"ssl.endpoint.identification.algorithm": "none"})
    assert (auth["ssl_context"].verify_mode, auth["ssl_context"].check_hostname) == (ssl.CERT_REQUIRED, False)


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sasl(protocol: str, mechanism: str) -> None:
    """User, password and mechanism arrive, over TLS where it is set."""
    _, auth = _auth(security_protocol=protocol, sasl_mechanism=mechanism, sasl_username="u", sasl_password="p")
    assert auth["security_protocol"] == protocol
    assert auth["sasl_mechanism"] == mechanism
    assert (auth["sasl_plain_username"], auth["sasl_plain_password"]) == ("u", "p")
    assert (auth["ssl_context"] is not None) == (protocol == "SASL_SSL")


def test_what_faust_cannot_speak_is_refused() -> None:
    """A mechanism that only librdkafka knows, and a file that is not there, are named."""
    with pytest.raises(ConfigurationError, match="OAUTHBEARER"):
        _auth(security_protocol="SASL_SSL", sasl_mechanism="OAUTHBEARER")
    with pytest.raises(ConfigurationError, match="TLS files"):
        _auth(security_protocol="SSL", ssl_ca_location="/no/such.pem")
