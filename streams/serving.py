"""From an announcement to a forecaster that serves: verified, and fit for this worker's settings."""

from __future__ import annotations

from pathlib import Path

from models.registry import CardInvalid, Registry, SchemaMismatch
from models.sequence import SequenceForecaster, SequenceSpec
from schemas.outputs import Announcement
from streams.settings import Settings


def registry_of(settings: Settings) -> Registry:
    """Return the registry of the settings."""
    return Registry(Path(settings.train.registry))


def load_announced(announcement: Announcement, settings: Settings) -> SequenceForecaster:
    """Return the forecaster that an announcement of `demand` names; needs no torch.

    Raises a RegistryError where the version is missing, was changed, is signed with another key, or was trained for
    another bucket, time zone or a shorter horizon than this worker's settings.
    """
    registry = registry_of(settings)
    version = registry.load(
        announcement.model, announcement.version, schema_hash=announcement.schema_hash, sha256=announcement.sha256
    )
    try:
        spec = SequenceSpec.from_json(version.card.spec)
        forecaster = SequenceForecaster.from_tensors(spec, version.tensors)
    except ValueError as error:
        raise CardInvalid(f"{version.folder}: {error}") from error
    if spec.schema_hash() != version.card.schema_hash:
        raise SchemaMismatch(f"{version.folder}: was trained by a release with other inputs; train a new version")
    mine = (settings.demand.bucket, settings.shop.timezone)
    if (spec.freq, spec.timezone) != mine or spec.horizon < settings.demand.horizon:
        raise SchemaMismatch(
            f"{version.folder}: forecasts {spec.horizon} × {spec.freq} in {spec.timezone}, this worker serves "
            f"{settings.demand.horizon} × {mine[0]} in {mine[1]}; train a version with these settings"
        )
    return forecaster
