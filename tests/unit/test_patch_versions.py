"""Versions are ordered as dpkg, rpm, semver.org and NVIDIA order them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.patching import versions
from gpufleet.core.patching.versions import Compare

# From deb-version(7) and dpkg's own tests.
DEBIAN = [
    ("1.0~beta1~svn1245", "1.0~beta1"),
    ("1.0~beta1", "1.0"),
    ("1.7.24~ds1-6+deb13u1", "1.7.24-1"),
    ("1.7.24-1~deb12u1", "1.7.24-1"),
    ("580.95.05", "580.105.08"),
    ("580.95.05-1", "580.105.08-0ubuntu0.24.04.1"),
    ("6.8.0-45", "6.8.0-100"),
    ("2.0", "1:1.0"),
    ("1.0a", "1.0+"),
    ("1.0-1", "1.0-1.1"),
]
RPM = [
    ("1.0~rc1", "1.0"),
    ("1.0", "1.0^git1"),
    ("1.0a", "1.0.1"),
    ("1.0", "1.0a"),
    ("5.14.0-427.13.1.el9_4", "5.14.0-503.11.1.el9_5"),
    ("1.0", "1:0.1"),
    ("1.9", "1.10"),
]
SEMANTIC = [
    ("1.0.0-alpha", "1.0.0-alpha.1"),
    ("1.0.0-alpha.1", "1.0.0-alpha.beta"),
    ("1.0.0-beta.2", "1.0.0-beta.11"),
    ("1.0.0-rc.1", "1.0.0"),
    ("1.7.9", "v1.7.24"),
    ("1.17.7", "1.17.8"),
]
HEXADECIMAL = [("96.00.CF.00.01", "96.00.D0.00.01"), ("96.00.19.00", "96.00.1A.00")]


@pytest.mark.parametrize(
    ("compare", "older", "newer"),
    [
        *((versions.debian, *pair) for pair in DEBIAN),
        *((versions.rpm, *pair) for pair in RPM),
        *((versions.semantic, *pair) for pair in SEMANTIC),
        *((versions.hexadecimal, *pair) for pair in HEXADECIMAL),
    ],
)
def test_the_newer_of_two_versions_is_known(compare: Compare, older: str, newer: str) -> None:
    assert compare(older, newer) < 0 < compare(newer, older)
    assert compare(older, older) == compare(newer, newer) == 0


@pytest.mark.parametrize(("one", "same"), [("1.0", "1.00"), ("1.0", "0:1.0"), ("1.0", "1.0-0")])
def test_versions_that_debian_calls_equal_are_equal(one: str, same: str) -> None:
    assert versions.debian(one, same) == 0


TEXT = st.from_regex(r"[0-9]{1,2}([.~+a-c-]?[0-9a-c~]{1,3}){0,3}", fullmatch=True)


@given(TEXT, TEXT, TEXT)
def test_orders_are_orders(first: str, second: str, third: str) -> None:
    for compare in (versions.debian, versions.rpm):
        assert (compare(first, second) > 0) == (compare(second, first) < 0)
        if compare(first, second) <= 0 and compare(second, third) <= 0:
            assert compare(first, third) <= 0


@pytest.mark.parametrize("text", ["", "abc", "latest"])
def test_what_is_no_semantic_version_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no semantic version"):
        versions.semantic(text, "1.0.0")


@pytest.mark.parametrize(
    ("package", "upstream"),
    [
        ("1.7.24~ds1-6+deb13u1", "1.7.24"),
        ("1:1.17.8-1", "1.17.8"),
        ("580.95.05", "580.95.05"),
        ("580.105.08-0ubuntu0.24.04.1", "580.105.08"),
    ],
)
def test_the_upstream_version_is_what_the_maker_calls_it(package: str, upstream: str) -> None:
    assert versions.upstream(package) == upstream


@pytest.mark.parametrize(
    ("release", "numbers"),
    [
        ("6.8.0-45-generic", "6.8.0-45"),
        ("6.12.43+deb13-amd64", "6.12.43"),
        ("5.14.0-427.13.1.el9_4.x86_64", "5.14.0-427.13.1"),
        ("none", ""),
    ],
)
def test_a_kernels_release_has_its_numbers_first(release: str, numbers: str) -> None:
    assert versions.kernel(release) == numbers
