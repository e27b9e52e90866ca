"""The registry: signed, immutable model versions in a folder, and which of them were promoted.

::

    <root>/keys/signing.key, signing.pub          Ed25519, made on first use; whoever verifies needs only the .pub
    <root>/<model>/promotions.json                versions promoted, in order; the last one is champion
    <root>/<model>/<version>/weights.safetensors  the tensors
    <root>/<model>/<version>/card.json            what the version is, with the SHA-256 of the tensors
    <root>/<model>/<version>/signature            Ed25519 over the card, base64

A version is plain data: verified before it is read, never unpickled. The signature covers the card and the card's hash
the tensors, so a changed bit anywhere is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from models.checkpoint import sync_folder, write_atomically

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PURPOSE = b"tidecast model card v1\n"  # a signature made for anything else never counts here


class RegistryError(ValueError):
    """Root of what a registry refuses; the message names the folder and the repair."""


class VersionExists(RegistryError):
    """A version is written once; there is another one under this name."""


class VersionNotFound(RegistryError):
    """There is no such version."""


class SignatureMissing(RegistryError):
    """The version carries no signature, or there is no key to verify it with."""


class SignatureInvalid(RegistryError):
    """The card was changed, or signed with another key."""


class WeightsTampered(RegistryError):
    """The tensors are not those that the card was signed for."""


class CardInvalid(RegistryError):
    """The card does not say what a card says, or belongs to another version."""


class SchemaMismatch(RegistryError):
    """The version was trained for other inputs than those it would be served."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a version is. `offsets`: topic → partition → first offset not trained on; `created_at` in UTC ms."""

    model: str
    name: str
    version: str
    schema_hash: str
    spec: dict[str, Any]
    offsets: dict[str, dict[str, int]]
    metrics: dict[str, float]
    decision: str
    created_at: int
    sha256: str = ""
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """A verified version: its folder, card and tensors."""

    folder: Path
    card: Card
    tensors: dict[str, NDArray[Any]]


class Registry:
    """Versions under `root`. `signing_key` and `trusted_key` name PEM files elsewhere; the default is made here."""

    def __init__(self, root: Path, *, signing_key: Path | None = None, trusted_key: Path | None = None) -> None:
        self.root = root
        self._signing_key = signing_key or root / "keys" / "signing.key"
        self._trusted_key = trusted_key or self._signing_key.with_suffix(".pub")

    def register(self, card: Card, tensors: Mapping[str, NDArray[Any]]) -> Card:
        """Write a version once, signed; return its card with the tensors' hash. VersionExists if it is there."""
        folder = self._folder(card.model, card.version)
        weights = save_tensors({name: np.ascontiguousarray(value) for name, value in sorted(tensors.items())})
        card = Card(**{**_plain(card), "sha256": hashlib.sha256(weights).hexdigest()})
        data = _card_bytes(card)
        signature = base64.b64encode(self._private_key().sign(_PURPOSE + data)) + b"\n"
        if folder.exists():
            raise VersionExists(f"{folder}: there is a version of this name; versions are never overwritten")
        temporary = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            for name, content in (("weights.safetensors", weights), ("card.json", data), ("signature", signature)):
                write_atomically(temporary / name, content, 0o444)
            # Renaming onto a folder with files fails, so of two writers one wins, and readers never see half a version.
            os.rename(temporary, folder)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if folder.exists():
                raise VersionExists(f"{folder}: another process wrote it just now") from error
            raise
        sync_folder(folder.parent)
        return card

    def load(self, model: str, version: str, *, schema_hash: str | None = None, sha256: str | None = None) -> Version:
        """Verify and read a version.

        `sha256` pins the tensors' hash (an announcement names it), `schema_hash` the inputs. Raises VersionNotFound,
        SignatureMissing, SignatureInvalid, WeightsTampered, CardInvalid or SchemaMismatch.
        """
        folder = self._folder(model, version)
        card = self.card(model, version)
        try:
            weights = (folder / "weights.safetensors").read_bytes()
        except OSError as error:
            raise WeightsTampered(
                f"{folder}/weights.safetensors: cannot be read ({error.strerror}); restore the file, or roll back with "
                "'tidecast models rollback'"
            ) from error
        found = hashlib.sha256(weights).hexdigest()
        for expected, who in ((card.sha256, "the card"), (sha256 or card.sha256, "the announcement")):
            if found != expected:
                raise WeightsTampered(
                    f"{folder}/weights.safetensors: SHA-256 {found[:12]}… is not {expected[:12]}… as {who} says; "
                    "restore the file, or roll back with 'tidecast models rollback'"
                )
        if schema_hash is not None and card.schema_hash != schema_hash:
            raise SchemaMismatch(
                f"{folder}: trained for inputs {card.schema_hash}, this worker serves {schema_hash}; "
                "train a version with these settings"
            )
        return Version(folder, card, load_tensors(weights))

    def card(self, model: str, version: str) -> Card:
        """Verify and read a card alone; raises as `load` does."""
        folder = self._folder(model, version)
        try:
            data = (folder / "card.json").read_bytes()
        except OSError as error:
            told = "no such version here; 'tidecast models list' shows those of train.registry"
            raise VersionNotFound(f"{folder}: {told}") from error
        self._verify(folder, data)
        try:
            card = Card(**json.loads(data))
        except (TypeError, ValueError) as error:
            raise CardInvalid(f"{folder}/card.json: {error}; it was written by another release") from error
        if (card.model, card.version) != (model, version):
            raise CardInvalid(f"{folder}/card.json: belongs to {card.model} {card.version}; a folder was renamed")
        return card

    def models(self) -> list[str]:
        """Return the names of all models with a folder here."""
        return sorted(
            p.name for p in self.root.glob("*") if p.is_dir() and p.name != "keys" and _NAME.fullmatch(p.name)
        )

    def list_versions(self, model: str) -> list[str]:
        """Return the versions of a model in the order of their names, which is that of their training."""
        folder = self.root / _checked(model)
        return sorted(p.parent.name for p in folder.glob("*/card.json") if _NAME.fullmatch(p.parent.name))

    def latest(self, model: str) -> str | None:
        """Return the newest version, promoted or not."""
        versions = self.list_versions(model)
        return versions[-1] if versions else None

    def champion(self, model: str) -> str | None:
        """Return the version promoted last, unless it was rolled back."""
        promoted = self._promotions(model)
        return promoted[-1] if promoted else None

    def promote(self, model: str, version: str) -> Card:
        """Make a version champion; return its verified card. Promoting the champion again changes nothing."""
        card = self.card(model, version)
        promoted = self._promotions(model)
        if promoted[-1:] != [version]:
            self._set_promotions(model, [*promoted, version])
        return card

    def predecessor(self, model: str) -> Card | None:
        """Return the verified card of the champion before this one, None if that was the baseline."""
        promoted = self._promotions(model)
        if not promoted:
            raise VersionNotFound(f"{self.root / model}: nothing was promoted, so there is nothing to roll back")
        return self.load(model, promoted[-2]).card if len(promoted) > 1 else None

    def rollback(self, model: str) -> Card | None:
        """Make the champion's predecessor champion again, and return its verified card (None: the baseline)."""
        card = self.predecessor(model)
        self._set_promotions(model, self._promotions(model)[:-1])
        return card

    def _folder(self, model: str, version: str) -> Path:
        return self.root / _checked(model) / _checked(version)

    def _promotions(self, model: str) -> list[str]:
        path = self.root / _checked(model) / "promotions.json"
        try:
            promoted = json.loads(path.read_bytes())["promoted"]
            if not isinstance(promoted, list) or not all(isinstance(v, str) and _NAME.fullmatch(v) for v in promoted):
                raise ValueError("promoted is no list of versions")
            return promoted
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(
                f"{path}: cannot be read ({error}); restore it, or delete it and promote again"
            ) from error

    def _set_promotions(self, model: str, versions: list[str]) -> None:
        write_atomically(self.root / model / "promotions.json", {"promoted": versions})

    def _private_key(self) -> Ed25519PrivateKey:
        if not self._signing_key.exists():
            if self._trusted_key.exists():
                raise SignatureMissing(
                    f"{self._signing_key}: is not here, but {self._trusted_key} is; bring the private key that belongs "
                    "to it, or every worker would refuse what this one signs"
                )
            self._make_key()
        key = serialization.load_pem_private_key(self._signing_key.read_bytes(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise RegistryError(f"{self._signing_key}: is no Ed25519 key")
        if not self._trusted_key.exists():
            public = key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            write_atomically(self._trusted_key, public)
        return key

    def _make_key(self) -> None:
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        private = Ed25519PrivateKey.generate().private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        self._signing_key.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._signing_key, private, 0o600)

    def _verify(self, folder: Path, card: bytes) -> None:
        try:
            signature = base64.b64decode((folder / "signature").read_bytes(), validate=False)
        except (OSError, ValueError) as error:
            raise SignatureMissing(f"{folder}/signature: cannot be read; an unsigned model is not served") from error
        try:
            key = serialization.load_pem_public_key(self._trusted_key.read_bytes())
        except (OSError, ValueError) as error:
            raise SignatureMissing(
                f"{self._trusted_key}: no public key to verify with; copy signing.pub from where models are trained"
            ) from error
        if not isinstance(key, Ed25519PublicKey):
            raise RegistryError(f"{self._trusted_key}: is no Ed25519 key")
        try:
            key.verify(signature, _PURPOSE + card)
        except InvalidSignature as error:
            raise SignatureInvalid(
                f"{folder}: the card was changed, or signed with another key than {self._trusted_key}; do not serve it"
            ) from error


def _checked(name: str) -> str:
    """Refuse names that would leave the folder: they come from messages and the command line."""
    if not _NAME.fullmatch(name):
        raise VersionNotFound(
            f"{name[:100]!r} is no name of a model or version; letters, digits, '.', '_' and '-' only"
        )
    return name


def _plain(card: Card) -> dict[str, Any]:
    data: dict[str, Any] = asdict(card)
    return data


def _card_bytes(card: Card) -> bytes:
    return (json.dumps(_plain(card), indent=1, sort_keys=True) + "\n").encode()
