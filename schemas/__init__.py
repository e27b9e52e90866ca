"""What crosses a wire, and nothing else: events in, predictions out, and what flows between the stages.

==============  ====================================================================================
`wire`          the JSON grammar, limits and times that every reader here shares, and `DecodeError`
`codec`         the hot path of the inputs: bytes → frozen msgspec structs, about a microsecond each
`events`        the contract of the inputs as pydantic models; accepts and refuses what `codec` does
`internal`      activity, examples and outcomes: what the stages tell each other (msgpack)
`outputs`       the hot path of predictions, dead letters, history and model announcements: values ⇄ bytes
`messages`      the structs that `outputs` encodes
`published`     their contract as pydantic models
`contracts`     JSON Schemas and the AsyncAPI document, and the check that no change breaks a reader
==============  ====================================================================================

This room imports pydantic and msgspec only, and knows neither Kafka nor Redis.
"""
