"""Laws of the registry: a version is written once, and served only as it was signed."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.registry import (
    Card,
    CardInvalid,
    Registry,
    RegistryError,
    SchemaMismatch,
    SignatureInvalid,
    SignatureMissing,
    VersionExists,
    VersionNotFound,
    WeightsTampered,
)

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(1, np.float32)}
CARD = Card(
    model="demand",
    name="sequence",
    version="v1",
    schema_hash="abc",
    spec={"format": 1},
    offsets={"tidecast.history": {"0": 12}},
    metrics={"wql": 0.5},
    decision="promoted",
    created_at=1_700_000_000_000,
)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Return a registry that holds v1."""
    registry = Registry(tmp_path)
    registry.register(CARD, TENSORS)
    return registry


def test_what_was_registered_is_loaded(registry: Registry) -> None:
    """Card and tensors come back as they went in, the card with the tensors' hash."""
    version = registry.load("demand", "v1", schema_hash="abc")
    assert replace(version.card, sha256="") == CARD
    assert {k: v.tolist() for k, v in version.tensors.items()} == {k: v.tolist() for k, v in TENSORS.items()}
    assert registry.load("demand", "v1", sha256=version.card.sha256).card == version.card


def test_a_version_is_written_once(registry: Registry) -> None:
    """A second write of a version is refused, and changes nothing."""
    with pytest.raises(VersionExists):
        registry.register(CARD, {"a": np.zeros(3, np.float32)})
    assert registry.load("demand", "v1").tensors["a"].tolist() == [1.0]
    assert [p.name for p in (registry.root / "demand").iterdir()] == ["v1"]


def _flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.mark.parametrize("position", [0, 9, 40, -1, -9])
@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("weights.safetensors", (WeightsTampered,)),
        ("card.json", (SignatureInvalid,)),
        ("signature", (SignatureInvalid, SignatureMissing)),
    ],
)
def test_a_flipped_bit_is_refused(
    registry: Registry, name: str, errors: tuple[type[RegistryError], ...], position: int
) -> None:
    """One changed bit in tensors, card or signature is refused, by its own name."""
    path = registry.root / "demand" / "v1" / name
    _flip(path, -2 if name == "signature" and position == -1 else position)
    with pytest.raises(errors):
        registry.load("demand", "v1")


def test_another_key_is_refused(registry: Registry, tmp_path: Path) -> None:
    """A version signed with another key is refused, however well it is signed."""
    other = Registry(tmp_path / "other")
    other.register(replace(CARD, version="v2"), TENSORS)
    shutil.copytree(other.root / "demand" / "v2", registry.root / "demand" / "v2")
    with pytest.raises(SignatureInvalid):
        registry.load("demand", "v2")


def test_nothing_unsigned_is_served(registry: Registry) -> None:
    """Without a signature, or without a key to verify it, nothing loads."""
    with pytest.raises(SignatureMissing, match="no public key"):
        Registry(registry.root, trusted_key=registry.root / "nowhere.pub").card("demand", "v1")
    (registry.root / "demand" / "v1" / "signature").unlink()
    with pytest.raises(SignatureMissing, match="unsigned"):
        registry.load("demand", "v1")


def test_a_renamed_folder_is_refused(registry: Registry) -> None:
    """An old version under a new name is refused: the name is signed too."""
    shutil.copytree(registry.root / "demand" / "v1", registry.root / "demand" / "v9")
    with pytest.raises(CardInvalid, match="belongs to demand v1"):
        registry.load("demand", "v9")


def test_other_inputs_are_refused(registry: Registry) -> None:
    """A version of another schema, or other tensors than were announced, are refused."""
    with pytest.raises(SchemaMismatch, match="abc"):
        registry.load("demand", "v1", schema_hash="xyz")
    with pytest.raises(WeightsTampered, match="announcement"):
        registry.load("demand", "v1", sha256="0" * 64)


@pytest.mark.parametrize("name", ["../v1", "", ".hidden", "a/b", "v1\n", "x" * 200, "nothing"])
def test_names_stay_in_the_folder(registry: Registry, name: str) -> None:
    """A version's name cannot leave the registry, and an unknown one is not found."""
    with pytest.raises(VersionNotFound):
        registry.load("demand", name)


def test_the_private_key_is_private(registry: Registry) -> None:
    """The signing key is readable by its owner alone; the public one verifies without it."""
    key = registry.root / "keys" / "signing.key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.unlink()
    assert Registry(registry.root).load("demand", "v1").card.version == "v1"
    with pytest.raises(SignatureMissing, match="private key"):
        registry.register(replace(CARD, version="v2"), TENSORS)


def test_promotions_and_rollbacks(registry: Registry) -> None:
    """The champion is the version promoted last; a rollback goes one step back, at last to the baseline."""
    registry.register(replace(CARD, version="v2"), TENSORS)
    assert registry.champion("demand") is None
    for version in ("v1", "v2", "v2"):
        registry.promote("demand", version)
    assert registry.champion("demand") == "v2"
    card = registry.rollback("demand")
    assert card is not None
    assert (card.version, registry.champion("demand")) == ("v1", "v1")
    assert registry.rollback("demand") is None
    assert registry.champion("demand") is None
    with pytest.raises(VersionNotFound, match="nothing was promoted"):
        registry.rollback("demand")
    with pytest.raises(VersionNotFound):
        registry.promote("demand", "v7")


def test_lists(registry: Registry) -> None:
    """Versions are listed in order; half-written ones and other files are none."""
    registry.register(replace(CARD, version="v0"), TENSORS)
    (registry.root / "demand" / ".v5.123.tmp").mkdir()
    (registry.root / "demand" / "v6").mkdir()
    assert registry.list_versions("demand") == ["v0", "v1"]
    assert registry.latest("demand") == "v1"
    assert registry.models() == ["demand"]
    assert registry.list_versions("purchase") == []


def _register(root: Path, number: int) -> str:
    try:
        Registry(root).register(replace(CARD, version="raced"), {"a": np.full(1000, number, np.float32)})
    except VersionExists:
        return "exists"
    return "written"


def test_of_two_writers_one_wins(registry: Registry) -> None:
    """Several processes write one version at once: exactly one succeeds, and what it wrote verifies."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.starmap(_register, [(registry.root, number) for number in range(6)])
    assert sorted(results) == ["exists"] * 5 + ["written"]
    assert registry.load("demand", "raced").tensors["a"].std() == 0


def test_a_card_of_another_release_is_refused(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card with fields this release does not know is refused, though signed."""
    monkeypatch.setattr("models.registry._card_bytes", lambda card: json.dumps({"model": "demand"}).encode())
    registry.register(replace(CARD, version="v3"), TENSORS)
    with pytest.raises(CardInvalid):
        registry.card("demand", "v3")
