"""Files of known vulnerabilities, as far as they are read: OSV 1.x and CSAF 2.0.

Sources: ossf.github.io/osv-schema; docs.oasis-open.org/csaf/csaf/v2.0. What is not read is left
out, so that newer files of the same formats are read too.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

_Text = Annotated[str, Field(max_length=10_000)]
_Version = Annotated[str, Field(min_length=1, max_length=500)]


class _Read(BaseModel):
    """A part of somebody else's file: what it does not declare is left out."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)


class OsvSeverity(_Read):
    """A score of one kind."""

    type: _Text
    score: _Text


class OsvEvent(_Read):
    """A version at which something changes; one of them is given."""

    introduced: _Version | None = None
    fixed: _Version | None = None
    last_affected: _Version | None = None


class OsvRange(_Read):
    """Versions in order."""

    type: _Text
    """`SEMVER`, `ECOSYSTEM` or `GIT`."""
    events: Annotated[list[OsvEvent], Field(min_length=1)]


class OsvPackage(_Read):
    """Whose versions."""

    ecosystem: _Text
    name: _Text


class OsvAffected(_Read):
    """A package with its vulnerable versions."""

    package: OsvPackage | None = None
    ranges: list[OsvRange] = Field(default_factory=list)
    versions: list[_Version] = Field(default_factory=list)
    severity: list[OsvSeverity] = Field(default_factory=list)


class OsvEntry(_Read):
    """One vulnerability."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    modified: datetime
    published: datetime | None = None
    withdrawn: datetime | None = None
    aliases: list[_Text] = Field(default_factory=list)
    severity: list[OsvSeverity] = Field(default_factory=list)
    affected: list[OsvAffected] = Field(default_factory=list)
    database_specific: dict[str, Any] = Field(default_factory=dict)


class CsafProduct(_Read):
    """A product that statuses refer to."""

    product_id: _Text
    name: _Text


class CsafBranch(_Read):
    """A vendor, a product, or a version of it."""

    category: _Text
    name: _Text
    branches: "list[CsafBranch]" = Field(default_factory=list)
    product: CsafProduct | None = None


class CsafRelationship(_Read):
    """A product inside another."""

    product_reference: _Text
    full_product_name: CsafProduct


class CsafTree(_Read):
    """Every product of a document."""

    branches: list[CsafBranch] = Field(default_factory=list)
    full_product_names: list[CsafProduct] = Field(default_factory=list)
    relationships: list[CsafRelationship] = Field(default_factory=list)


class CsafStatus(_Read):
    """Ids of products by what is known of them."""

    known_affected: list[_Text] = Field(default_factory=list)
    last_affected: list[_Text] = Field(default_factory=list)
    first_affected: list[_Text] = Field(default_factory=list)
    fixed: list[_Text] = Field(default_factory=list)
    first_fixed: list[_Text] = Field(default_factory=list)


class CsafScore(_Read):
    """Severities of some products."""

    cvss_v3: dict[str, Any] = Field(default_factory=dict)
    cvss_v4: dict[str, Any] = Field(default_factory=dict)


class CsafVulnerability(_Read):
    """One vulnerability of a document."""

    cve: _Text | None = None
    title: _Text | None = None
    release_date: datetime | None = None
    scores: list[CsafScore] = Field(default_factory=list)
    product_status: CsafStatus = CsafStatus()


class CsafTracking(_Read):
    """The document's number and dates."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    initial_release_date: datetime


class CsafSeverity(_Read):
    """The vendor's own word."""

    text: _Text


class CsafHead(_Read):
    """What a document says of itself."""

    csaf_version: _Text
    tracking: CsafTracking
    aggregate_severity: CsafSeverity | None = None


class CsafDocument(_Read):
    """An advisory."""

    document: CsafHead
    product_tree: CsafTree = CsafTree()
    vulnerabilities: Annotated[list[CsafVulnerability], Field(min_length=1)]


class Order(StrEnum):
    """How the versions of a range are compared."""

    DEBIAN = "debian"
    RPM = "rpm"
    SEMANTIC = "semantic"
    UPSTREAM = "upstream"
    """As Debian's, without epoch and revision."""
    UNKNOWN = "unknown"
    """Nobody can tell: commits of a repository, or words."""
