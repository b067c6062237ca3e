"""Where a model's weights come from at a site, and how its object store is reached from a pod."""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from gpufleet.core import vocabulary as names
from gpufleet.spec import forms
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.hardware import AddressingStyle, ObjectStorage

_ARTIFACT: Final = re.compile(forms.ARTIFACT, re.ASCII)


class Source(NamedTuple):
    """The snapshots of a revision in a bucket."""

    bucket: str
    revision: str

    @classmethod
    def of(cls, text: str) -> Self:
        """From `s3://BUCKET/REVISION`.

        Raises:
            BadInput: it is written otherwise.
        """
        if not _ARTIFACT.fullmatch(text):
            raise BadInput(
                f"`{text:.80}` names no snapshots of a revision",
                where="--source",
                mend="such as s3://models/llama-3.1-8b",
            )
        return cls(*text.removeprefix("s3://").split("/"))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.revision}"


@dataclass(frozen=True)
class StoreAccess:
    """What a pod is told of its site's object store; keys are in a Secret."""

    endpoint: str
    region: str
    style: AddressingStyle
    own_authority: bool
    """Whether the store's certificate is of an authority that the system does not know."""


@dataclass(frozen=True)
class Weights:
    """What a pool's pod has to know to bring its weights."""

    source: Source
    digest: str
    store: StoreAccess | None
    """None where the site declares none: then AWS's chain says where it is."""
    encrypted: bool
    """Whether the fleet declares a key that chunks are encrypted with."""
    ports: tuple[int, ...]
    """Where the store is reached."""

    @property
    def files(self) -> tuple[str, ...]:
        """What it needs as files: keys of the Secret `ARTIFACT_FILES`."""
        return files_of(self.store, encrypted=self.encrypted)

    @classmethod
    def of(cls, fleet: Fleet, model: str, site: str) -> Self:
        """Those of a model at a site."""
        return cls(
            source=source_of(fleet, model),
            digest=fleet.models[model].digest,
            store=store_access(fleet, site),
            encrypted=fleet.snapshot_keys.encryption_key is not None,
            ports=store_ports(fleet.sites[site].object_store),
        )


def snapshots_bucket(fleet: Fleet) -> str:
    """The bucket of an environment's snapshots, in each site's object store."""
    return f"{fleet.slug}-snapshots"


def source_of(fleet: Fleet, revision: str) -> Source:
    """The snapshots that a model is restored from: as declared, else those of its own name.

    Those of what is no model of the fleet are of its own name too.
    """
    model = fleet.models.get(revision)
    if model is not None and model.source:
        return Source.of(model.source)
    return Source(snapshots_bucket(fleet), revision)


def served_here(fleet: Fleet) -> dict[tuple[str, str], str]:
    """What models need of the environment's own snapshots: by revision and digest, for whom."""
    bucket = snapshots_bucket(fleet)
    return {
        (source.revision, model.digest): f"the weights of model {name}"
        for name, model in fleet.models.items()
        if (source := source_of(fleet, name)).bucket == bucket
    }


def store_access(fleet: Fleet, site: str) -> StoreAccess | None:
    """How a site's declared object store is reached; None where none is declared."""
    store = fleet.sites[site].object_store
    if store is None:
        return None
    return StoreAccess(
        store.endpoint,
        store.region,
        store.style,
        own_authority=store.certificate_authority is not None,
    )


def files_of(store: StoreAccess | None, *, encrypted: bool) -> tuple[str, ...]:
    """What a pod that restores needs as files: keys of the Secret `ARTIFACT_FILES`."""
    key = (names.SNAPSHOT_KEY,) if encrypted else ()
    return (*key, names.STORE_AUTHORITY) if store and store.own_authority else key


def store_ports(store: ObjectStorage | None) -> tuple[int, ...]:
    """Ports of a site's object store, and that of AWS's own."""
    url = urlsplit(store.endpoint if store else "")
    return tuple(sorted({443, url.port or (80 if url.scheme == "http" else 443)}))
