"""Whether an installed version is among the vulnerable ones of an advisory."""

import re

from gpufleet.core.patching import versions
from gpufleet.core.patching.advisories import Affected, Span
from gpufleet.spec.advisories import Order


def is_affected(affected: Affected, part: str, version: str) -> bool | None:
    """Whether an installed version is vulnerable; None where nobody can tell."""
    driver = versions.branch(versions.upstream(version))
    if affected.branch not in {"", driver} or not _fits_distribution(affected, part, version):
        return False
    if version in affected.exact:
        return True
    if affected.order is Order.UNKNOWN:
        return None
    try:
        if part == "kernel":
            return _is_affected_kernel(affected, version)
        compare, shown = _comparison(affected.order, part, version)
        return any(_within(span, shown, compare, part) for span in affected.spans)
    except ValueError:
        return None


def _fits_distribution(affected: Affected, part: str, version: str) -> bool:
    """Packages of Ubuntu have its name in their version, and those of Debian do not."""
    told = affected.ecosystem.casefold()
    # A driver of NVIDIA's own repository has the versions of the distributions' drivers.
    if part == "driver" or not told.startswith(("debian", "ubuntu")):
        return True
    if part == "kernel":
        is_ubuntu = not re.search(r"amd64|arm64|\bdeb", version)
    else:
        is_ubuntu = "ubuntu" in version
    return is_ubuntu == told.startswith("ubuntu")


def _is_affected_kernel(affected: Affected, release: str) -> bool | None:
    """Ubuntu's packages alone count as their releases do: `6.8.0-45.45` is `6.8.0-45-generic`.

    Each flavour (`linux-aws`) and each base (`6.8.0`) counts for itself.
    """
    if not affected.ecosystem.casefold().startswith("ubuntu"):
        return None
    flavour = affected.package.casefold().removeprefix("linux").strip("-").split("-")[0]
    if (flavour if flavour not in {"", "hwe", "image"} else "generic") not in release:
        return False
    numbers = versions.kernel(release)
    base = numbers.partition("-")[0]
    spans = [
        span
        for span in affected.spans
        if {versions.upstream(bound) for bound in (span.fixed, span.last) if bound} <= {base}
    ]
    return any(_within(span, numbers, versions.debian, "kernel") for span in spans)


def _comparison(order: Order, part: str, version: str) -> tuple[versions.Compare, str]:
    if part == "driver" or order is Order.UPSTREAM:
        return versions.debian, versions.upstream(version)
    if order is Order.SEMANTIC:
        return versions.semantic, versions.upstream(version)
    return (versions.rpm if order is Order.RPM else versions.debian), version


def _within(span: Span, version: str, compare: versions.Compare, part: str) -> bool:
    def bound(text: str) -> str:
        if part == "driver":
            return versions.upstream(text)
        return text.rpartition(".")[0] if part == "kernel" and "-" in text else text

    return (
        (not span.first or compare(version, bound(span.first)) >= 0)
        and (not span.fixed or compare(version, bound(span.fixed)) < 0)
        and (not span.last or compare(version, bound(span.last)) <= 0)
    )
