"""The AsyncAPI 3.0 document: topics, what they carry, and who sends it; built from the contracts' schemas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

JSON = "application/json"
MSGPACK = "application/msgpack"
_MSGPACK_CHANNELS = {"activity", "examples"}


@dataclass(frozen=True, slots=True)
class Channel:
    """One topic: the contract it carries (default: of the channel's own name), markers and such beside it in `also`.

    `action` is Tidecast's: it receives, sends, or does both between its own stages. `key` says what keys a record.
    """

    name: str
    address: str
    action: Literal["receive", "send", "both"]
    key: str
    summary: str
    also: tuple[str, ...] = ()
    carries: str | None = None
    compacted: bool = False


def document(channels: Sequence[Channel], schemas: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the document of `channels`; `schemas` are JSON Schemas by contract name, each with its own ``$defs``."""
    components: dict[str, Any] = {}
    for name, schema in schemas.items():
        for part, definition in schema.get("$defs", {}).items():
            translated = _translated(definition)
            if components.setdefault(part, translated) != translated:
                raise ValueError(f"{name}: another {part} is defined already; give one of them another name")
        components[name] = _translated({key: value for key, value in schema.items() if key != "$defs"})
    keys = {channel.name: channel.key for channel in channels}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Tidecast",
            "version": "1",
            "description": "Clicks and orders in, forecasts out. All topics use log append time: event time is in "
            "the payload. Topic names may carry a prefix. Read with isolation.level=read_committed.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": JSON,
        "channels": {channel.name: _channel(channel) for channel in channels},
        "operations": {name: operation for channel in channels for name, operation in _operations(channel)},
        "components": {
            "messages": {name: _message(name, schema, keys) for name, schema in schemas.items()},
            "schemas": components,
        },
    }


def _channel(channel: Channel) -> dict[str, Any]:
    policy = ["compact"] if channel.compacted else ["delete"]
    return {
        "address": channel.address,
        "summary": channel.summary,
        "messages": {
            name: {"$ref": f"#/components/messages/{name}"} for name in (channel.carries or channel.name, *channel.also)
        },
        "bindings": {
            "kafka": {
                "topic": channel.address,
                "topicConfiguration": {"cleanup.policy": policy},
                "bindingVersion": "0.5.0",
            }
        },
    }


def _operations(channel: Channel) -> list[tuple[str, dict[str, Any]]]:
    actions = ["send", "receive"] if channel.action == "both" else [channel.action]
    return [
        (f"{action}_{channel.name}", {"action": action, "channel": {"$ref": f"#/channels/{channel.name}"}})
        for action in actions
    ]


def _message(name: str, schema: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    key = {"type": ["string", "null"], "description": keys.get(name, "none")}
    message: dict[str, Any] = {
        "name": name,
        "contentType": MSGPACK if name in _MSGPACK_CHANNELS else JSON,
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}},
    }
    if "description" in schema:
        message["summary"] = str(schema["description"]).partition("\n")[0]
    if name == "marker":
        headers = {"tidecast-marker": {"type": "string", "enum": ["time", "end"], "description": "end: of a replay"}}
        message["headers"] = {"type": "object", "properties": headers, "required": list(headers)}
    return message


def _translated(schema: Any) -> Any:
    """Return `schema` in AsyncAPI's own dialect, a superset of draft 07, with its references to the components."""
    if isinstance(schema, list):
        return [_translated(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    translated = {key: _translated(value) for key, value in schema.items()}
    if isinstance(schema.get("$ref"), str):
        translated["$ref"] = schema["$ref"].replace("#/$defs/", "#/components/schemas/")
        if len(translated) > 1:  # draft 07 ignores what stands beside a reference
            reference = {"$ref": translated.pop("$ref")}
            translated["allOf"] = [reference]
    if isinstance(schema.get("discriminator"), Mapping):
        translated["discriminator"] = schema["discriminator"]["propertyName"]
    if isinstance(schema.get("prefixItems"), list):
        translated["items"] = translated.pop("prefixItems")
    return translated
