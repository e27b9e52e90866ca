"""How Faust reaches Kafka, from the settings that librdkafka is configured by."""

from __future__ import annotations

import ssl
from typing import Any

import faust

from streams.errors import ConfigurationError
from streams.kafka import base_config
from streams.settings import Settings

_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


def broker_options(settings: Settings) -> dict[str, Any]:
    """Return the broker's addresses and credentials as options of `faust.App`.

    Raises ConfigurationError for a mechanism that Faust cannot speak.
    """
    config = base_config(settings)
    protocol = str(config["security.protocol"])
    context = _context(config) if protocol.endswith("SSL") else None
    credentials: Any = None
    if protocol.startswith("SASL"):
        mechanism = str(config.get("sasl.mechanism", config.get("sasl.mechanisms", "PLAIN"))).upper()
        if mechanism not in _MECHANISMS:
            raise ConfigurationError(
                f"kafka.sasl_mechanism = {mechanism!r}: the control worker speaks {', '.join(_MECHANISMS)}; run it "
                "against a listener with one of them, or leave this role out"
            )
        credentials = faust.SASLCredentials(
            username=config.get("sasl.username"),
            password=config.get("sasl.password"),
            mechanism=mechanism,
            ssl_context=context,
        )
    elif context is not None:
        credentials = faust.SSLCredentials(context=context)
    return {"broker": _addresses(str(config["bootstrap.servers"])), "broker_credentials": credentials}


def _addresses(servers: str) -> list[str]:
    return [f"aiokafka://{server.strip().rpartition('://')[2]}" for server in servers.split(",") if server.strip()]


def _context(config: dict[str, Any]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.get("ssl.ca.location"))
        certificate = config.get("ssl.certificate.location")
        if certificate is not None:
            context.load_cert_chain(certificate, config.get("ssl.key.location"), config.get("ssl.key.password"))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"kafka: TLS files cannot be used ({error}); check kafka.ssl_ca_location") from error
    if str(config.get("ssl.endpoint.identification.algorithm", "https")).lower() == "none":
        context.check_hostname = False
    if str(config.get("enable.ssl.certificate.verification", True)).lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
