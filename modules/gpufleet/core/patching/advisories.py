"""Known vulnerabilities, from OSV and CSAF alike, and which of them are installed.

A version that cannot be compared decides nothing: such an advisory is told as undecided, never
passed over.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from gpufleet.core.patching import cvss
from gpufleet.spec.advisories import (
    CsafBranch,
    CsafDocument,
    CsafVulnerability,
    Order,
    OsvAffected,
    OsvEntry,
    OsvRange,
    OsvSeverity,
)
from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.patching import COMPONENT_OF

COMPONENTS: Final[Mapping[str, PatchTarget]] = {
    **{part.value: component for part, component in COMPONENT_OF.items()},
    "dcgm": PatchTarget.DRIVER,
}
"""Which component a part of a host belongs to; DCGM comes with the driver."""
_PACKAGES: Final[Mapping[str, re.Pattern[str]]] = {
    part: re.compile(pattern, re.IGNORECASE)
    for part, pattern in {
        "container-toolkit": r"nvidia[- ]container[- ]toolkit|libnvidia-container",
        "dcgm": r"datacenter-gpu-manager|\bdcgm\b|data center gpu manager",
        "driver": (
            r"nvidia-(graphics|open|driver)|gpu (display )?driver|open-gpu-kernel-modules"
            r"|nvidia-fabric-?manager"
        ),
        "containerd": r"(^|/)containerd(\.io|/v2)?$",
        "kernel": r"^(linux|kernel|linux-(aws|azure|gcp|hwe|nvidia|oracle|image)\b.*)$",
    }.items()
}
"""What advisories call the parts of a host; the first that fits."""
_ORDERS: Final = (
    (("debian", "ubuntu"), Order.DEBIAN),
    (("red hat", "rocky", "almalinux", "suse", "opensuse", "oracle", "amazon"), Order.RPM),
)
_CONSTRAINT: Final = re.compile(r"(<=|>=|<|>|=)?\s*v?([0-9][0-9A-Za-z.+:~_-]*)")
_PRIOR: Final = re.compile(
    r"(?:all (?:driver )?versions )?(?:prior to|before) (\S+)", re.IGNORECASE
)
_BRANCH: Final = re.compile(r"\bR(\d{3})\b")


@dataclass(frozen=True)
class Span:
    """Versions from one up to another; empty bounds are open.

    Args:
        first: the first vulnerable version.
        fixed: the first that is mended.
        last: the last vulnerable one, where no mended one is told.
    """

    first: str = ""
    fixed: str = ""
    last: str = ""


@dataclass(frozen=True)
class Affected:
    """Vulnerable versions of one package.

    Args:
        package: as the advisory calls it.
        order: how its versions are compared.
        ecosystem: whose package it is, such as `Debian:12`; empty where it is the maker's.
        spans: vulnerable versions in order.
        exact: vulnerable versions by themselves.
        branch: of drivers: the branch that it is about; every one where it is empty.
    """

    package: str
    order: Order
    ecosystem: str = ""
    spans: tuple[Span, ...] = ()
    exact: frozenset[str] = frozenset()
    branch: str = ""

    @property
    def fixed(self) -> list[str]:
        """Versions that mend it."""
        return sorted({span.fixed for span in self.spans if span.fixed})


@dataclass(frozen=True)
class KnownAdvisory:
    """One vulnerability, with the packages that gpufleet patches."""

    id: str
    published: datetime
    severity: str = ""
    aliases: tuple[str, ...] = ()
    affected: tuple[Affected, ...] = field(default=())


def part_of(package: str) -> str | None:
    """The part of a host that a package is; None of what gpufleet does not patch."""
    return next((part for part, known in _PACKAGES.items() if known.search(package)), None)


def from_osv(entry: OsvEntry) -> KnownAdvisory | None:
    """An OSV entry; None of one that was withdrawn."""
    if entry.withdrawn is not None:
        return None
    scores = [*entry.severity, *(score for each in entry.affected for score in each.severity)]
    return KnownAdvisory(
        id=entry.id,
        published=entry.published or entry.modified,
        severity=_osv_severity(scores, entry.database_specific.get("severity")),
        aliases=tuple(entry.aliases),
        affected=tuple(
            found
            for each in entry.affected
            for found in _osv_affected(each)
            if part_of(found.package)
        ),
    )


def _osv_severity(scores: Iterable[OsvSeverity], told: object) -> str:
    """The highest score of CVSS 3; without one the database's own word."""
    found = [score for each in scores if (score := cvss.base_score(each.score)) is not None]
    return cvss.severity(max(found)) if found else _word(told)


def _word(told: object) -> str:
    word = told.casefold() if isinstance(told, str) else ""
    word = {"moderate": "medium", "important": "high"}.get(word, word)
    return word if word in {"critical", "high", "medium", "low"} else ""


def _osv_affected(affected: OsvAffected) -> Iterator[Affected]:
    package = affected.package
    if package is None:
        return
    told = package.ecosystem.casefold()
    order = next((order for names, order in _ORDERS if told.startswith(names)), Order.SEMANTIC)
    exact = frozenset(affected.versions)
    for one in affected.ranges:
        kind = {"SEMVER": Order.SEMANTIC, "ECOSYSTEM": order}.get(one.type, Order.UNKNOWN)
        if kind is Order.UNKNOWN and (exact or len(affected.ranges) > 1):
            # Commits beside versions: the versions decide.
            continue
        yield Affected(package.name, kind, package.ecosystem, tuple(_spans(one)), exact)
    if not affected.ranges and exact:
        yield Affected(package.name, order, package.ecosystem, exact=exact)


def _spans(one: OsvRange) -> Iterator[Span]:
    """Each introduced version up to the next that ends it."""
    first: str | None = None
    for event in one.events:
        if event.introduced is not None:
            first = "" if event.introduced == "0" else event.introduced
        elif first is not None and (event.fixed or event.last_affected):
            yield Span(first, event.fixed or "", event.last_affected or "")
            first = None
    if first is not None:
        yield Span(first)


def from_csaf(document: CsafDocument) -> Iterator[KnownAdvisory]:
    """The vulnerabilities of a CSAF document."""
    products = dict(_csaf_products(document.product_tree.branches, ()))
    for product in document.product_tree.full_product_names:
        products.setdefault(product.product_id, (product.name, ""))
    for relation in document.product_tree.relationships:
        known = products.get(relation.product_reference)
        if known is not None:
            products.setdefault(relation.full_product_name.product_id, known)
    head = document.document
    told = head.aggregate_severity.text if head.aggregate_severity else ""
    for vulnerability in document.vulnerabilities:
        yield KnownAdvisory(
            id=vulnerability.cve or head.tracking.id,
            published=vulnerability.release_date or head.tracking.initial_release_date,
            severity=_csaf_severity(vulnerability) or _word(told),
            aliases=(head.tracking.id,) if vulnerability.cve else (),
            affected=tuple(
                found for found in _csaf_affected(vulnerability, products) if part_of(found.package)
            ),
        )


def _csaf_products(
    branches: Iterable[CsafBranch], above: tuple[str, ...], version: str = ""
) -> Iterator[tuple[str, tuple[str, str]]]:
    """Product ids with the names above each, joined, and its version or range of versions."""
    for branch in branches:
        is_version = branch.category.startswith("product_version")
        path = above if is_version else (*above, branch.name)
        known = branch.name if is_version else version
        if branch.product is not None:
            yield branch.product.product_id, (" ".join(path), known)
        yield from _csaf_products(branch.branches, path, known)


def _csaf_severity(vulnerability: CsafVulnerability) -> str:
    scores = [
        float(found)
        for score in vulnerability.scores
        for one in (score.cvss_v3, score.cvss_v4)
        if isinstance(found := one.get("baseScore"), int | float)
    ]
    return cvss.severity(max(scores)) if scores else ""


def _csaf_affected(
    vulnerability: CsafVulnerability, products: Mapping[str, tuple[str, str]]
) -> Iterator[Affected]:
    status = vulnerability.product_status
    mended: dict[str, list[str]] = {}
    for product_id in (*status.fixed, *status.first_fixed):
        name, version = products.get(product_id, ("", ""))
        mended.setdefault(name, []).append(version)
    for product_id, kind in (
        *((each, "") for each in status.known_affected),
        *((each, "first") for each in status.first_affected),
        *((each, "last") for each in status.last_affected),
    ):
        if product_id not in products:
            continue
        name, version = products[product_id]
        branch = _BRANCH.search(name)
        span = Span(**{kind: version}) if kind and version else span_of(version)
        fixed = mended.get(name, [])
        if span and not span.fixed and not span.last and len(fixed) == 1:
            span = Span(span.first, fixed[0])
        yield Affected(
            package=name,
            order=Order.UNKNOWN if span is None else Order.UPSTREAM,
            spans=() if span is None else (span,),
            branch=branch[1] if branch else "",
        )


def span_of(version: str) -> Span | None:
    """A version or a range such as `vers:generic/>=580|<580.95.05` or `<580.95.05`; else None.

    An empty one is every version. A range that leaves out single versions is taken as whole.
    """
    text = re.sub(r"^vers:[a-z]+/", "", version.strip(), flags=re.IGNORECASE)
    if text in {"", "*", "vers:all/*"} or text.casefold() in {"all versions", "all"}:
        return Span()
    if lower := _PRIOR.fullmatch(text):
        return Span(fixed=lower[1])
    bounds = [_CONSTRAINT.fullmatch(part.strip()) for part in re.split(r"[|,]| (?=[<>=])", text)]
    first = fixed = last = ""
    for bound in bounds:
        if bound is None:
            return None
        sign, number = bound.groups()
        match sign:
            case "<":
                fixed = number
            case "<=":
                last = number
            case ">=" | ">":
                first = number
            case _:
                first, last = number, number
    return Span(first, fixed, last)


def concerning(
    advisories: Iterable[KnownAdvisory], parts: Sequence[str]
) -> Iterator[tuple[KnownAdvisory, str, Affected]]:
    """Advisories on parts that are installed somewhere, with what each says of the part."""
    for advisory in advisories:
        for affected in advisory.affected:
            part = part_of(affected.package)
            if part is not None and part in parts:
                yield advisory, part, affected
