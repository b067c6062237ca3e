"""A machine is judged from facts: what is missing, whether it matters, and how to mend it."""

from dataclasses import replace

import pytest

from gpufleet.core.prerequisites import (
    BUILD_DISK_BYTES,
    GIB,
    MEMORY_BYTES_PER_SITE,
    RUN_DISK_BYTES,
    Finding,
    judge,
)
from gpufleet.spec.machine import Facts

READY = Facts(
    python=(3, 11),
    go=None,
    engines_missing=(),
    engines_from_path=(),
    cache_free_bytes=RUN_DISK_BYTES,
    state_free_bytes=RUN_DISK_BYTES,
    cache_writable=True,
    state_writable=True,
    memory_free_bytes=2 * MEMORY_BYTES_PER_SITE,
    loopback_block=True,
    time_zones=True,
    ssh_keygen=True,
    sites=2,
)
FRESH = replace(READY, go=(1, 26), engines_missing=("etcd",), cache_free_bytes=BUILD_DISK_BYTES)


def problems(facts: Facts) -> list[Finding]:
    return [finding for finding in judge(facts) if finding.level != "ok"]


@pytest.mark.parametrize("facts", [READY, FRESH, replace(READY, python=(3, 14), sites=0)])
def test_a_machine_that_has_everything_has_no_finding(facts: Facts) -> None:
    assert problems(facts) == []


@pytest.mark.parametrize(
    ("facts", "what", "level"),
    [
        (replace(READY, python=(3, 10)), "Python 3.11", "bad"),
        (replace(FRESH, go=None), "Go 1.26", "bad"),
        (replace(FRESH, go=(1, 9)), "Go 1.26", "bad"),
        (replace(FRESH, cache_free_bytes=BUILD_DISK_BYTES - 1), "disk for the cache", "bad"),
        (replace(READY, cache_free_bytes=RUN_DISK_BYTES - 1), "disk for the cache", "bad"),
        (replace(READY, cache_writable=False), "disk for the cache", "bad"),
        (replace(READY, state_free_bytes=0), "disk for .fleet", "bad"),
        (replace(READY, state_writable=False), "disk for .fleet", "bad"),
        (replace(READY, loopback_block=False), "loopback addresses", "bad"),
        (replace(READY, time_zones=False), "time zones", "bad"),
        (replace(READY, memory_free_bytes=GIB), "memory", "warn"),
        (replace(READY, ssh_keygen=False), "ssh-keygen", "warn"),
    ],
)
def test_what_is_missing_is_found_with_its_mend(facts: Facts, what: str, level: str) -> None:
    (found,) = problems(facts)
    assert (found.what, found.level) == (what, level)
    assert found.mend


def test_go_is_not_asked_for_where_every_engine_is_there() -> None:
    assert "Go 1.26" not in {finding.what for finding in judge(READY)}


def test_engines_that_stand_on_path_are_named() -> None:
    found = {
        finding.what: finding for finding in judge(replace(READY, engines_from_path=("etcd",)))
    }
    assert found["engines from PATH"].seen == "etcd"
