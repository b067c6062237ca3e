"""Drivers on real hosts, each with a fate of its own.

What a host's fate comes to is a test each. The runs take a while, so that they are shared: each is
a fixture that is made once, over whatever the runs before it have left.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import Until
from tests.hosts.packages import BREAKS_AFTER_REBOOT, CURRENT, FAILS_TO_INSTALL, GOOD
from tests.hosts.patched import TOKEN_TASK, PatchedLab, each, patched_lab
from tests.playbooks import Told

from gpufleet.core.patching.nodes import CORDONED_BY, QUARANTINE_REASON

HOSTS = [f"gpu-{number:03d}" for number in range(1, 13)]
PLAIN, BROKEN, BREAKS, LOST, FULL, CUT, HELD, UNFIT, SICK, GONE, KILLED, LEFT = HOSTS
WANTED = dict.fromkeys(HOSTS, GOOD) | {BROKEN: FAILS_TO_INSTALL, BREAKS: BREAKS_AFTER_REBOOT}
TARGET: dict[str, Any] = {"gpufleet_version": each(WANTED)}
# Until a run has come so far, on a machine that has other things to do.
WITHIN_S = 1800
RECORD = "/var/lib/gpufleet/patch.json"
# With the new driver, and only with it, a GPU has half of its lanes.
UNFIT_WITH_NEW = f"""\
#!/bin/sh
mkdir -p /var/lib/gpu-stub/faults
rm -f /var/lib/gpu-stub/faults/pcie-width
[ ! -e /var/lib/gpu-stub/built/{GOOD} ] || echo 8 > /var/lib/gpu-stub/faults/pcie-width
"""
# With the new driver one of its GPUs breaks, and stays so.
SICK_WITH_NEW = f"""\
#!/bin/sh
mkdir -p /var/lib/gpu-stub/faults
[ ! -e /var/lib/gpu-stub/built/{GOOD} ] || echo failure > /var/lib/gpu-stub/faults/row-remap
"""

pytestmark = [pytest.mark.hosts, pytest.mark.slow, pytest.mark.timeout(3000)]


def quarantine(fates: PatchedLab, host: str, state: str) -> Told:
    """Put a host into quarantine by hand, or take it out."""
    return fates.by_hand(
        "quarantine.yml", host, gpufleet_quarantine=state, gpufleet_reason="it was away"
    )


@pytest.fixture(scope="module")
def fates(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[PatchedLab]:
    with patched_lab(tmp_path_factory.mktemp("drivers"), until, len(HOSTS)) as made:
        yield made


@pytest.fixture(scope="module")
def before(fates: PatchedLab) -> dict[str, str]:
    """Packages of each host before anything was done."""
    return {host: fates.packages(host) for host in HOSTS}


@pytest.fixture(scope="module")
def patched(fates: PatchedLab, until: Until, before: dict[str, str]) -> Told:
    """One run over most of the hosts, while this and that befalls them."""
    del before  # It comes first.
    lab = fates.lab
    lab[LOST].fault("does-not-return")
    lab[FULL].fill("/")
    lab[CUT].fault("hold-install")
    fates.after_installing(UNFIT, UNFIT_WITH_NEW)
    fates.after_installing(SICK, SICK_WITH_NEW)
    holder = lab[HELD].hold_gpu()
    hosts = HOSTS[: HOSTS.index(KILLED)]
    # As a person gives it on a command line: text.
    with fates.running("drivers.yml", *hosts, **TARGET, gpu_clients_timeout_s="5") as run:
        until(lambda: fates.is_cordoned(GONE) or run.has_ended, WITHIN_S)
        lab[GONE].cut()
        until(lambda: fates.installs(CUT) or run.has_ended, WITHIN_S)
        lab[CUT].cut()
        until(lambda: not fates.is_connected(CUT) or run.has_ended, WITHIN_S)
        lab[CUT].plug()
        lab[CUT].mend("hold-install")
        told = run.end()
    holder.kill()
    holder.wait()
    lab[FULL].empty("/")
    return told


@pytest.fixture(scope="module")
def cut_short(fates: PatchedLab, until: Until, before: dict[str, str]) -> None:
    """Two hosts whose run is killed while it installs; then their power goes."""
    del before  # It comes first.
    hosts = [fates.lab[name] for name in (KILLED, LEFT)]
    for host in hosts:
        host.fault("hold-install")
    with fates.running("drivers.yml", KILLED, LEFT, **TARGET) as run:
        until(lambda: all(fates.installs(host.name) for host in hosts) or run.has_ended, WITHIN_S)
        assert not run.has_ended, run.end().messages
    for host in hosts:
        host.mend("hold-install")
        host.reboot()


@pytest.fixture(scope="module")
def again(fates: PatchedLab, patched: Told, cut_short: None) -> Told:  # noqa: ARG001 - it comes after
    """The same once more, over what is patched and what was cut short."""
    return fates.run("drivers.yml", PLAIN, KILLED, **TARGET)


@pytest.fixture(scope="module")
def returned(fates: PatchedLab, again: Told) -> list[Told]:  # noqa: ARG001 - it comes after
    """The way back, twice: patched, cut short, and never touched."""
    return [fates.run("rollback.yml", PLAIN, LEFT, FULL) for _ in range(2)]


def test_check_mode_touches_nothing_and_tells_the_same_twice(
    fates: PatchedLab, before: dict[str, str]
) -> None:
    first, second = (fates.run("drivers.yml", PLAIN, check=True, **TARGET) for _ in range(2))
    assert (first.code, second.code) == (0, 0), first.messages + second.messages
    assert first.changing(PLAIN) == second.changing(PLAIN) != []
    assert fates.packages(PLAIN) == before[PLAIN]
    assert not fates.is_cordoned(PLAIN)


def test_a_host_gets_the_driver_is_validated_and_serves_again(
    fates: PatchedLab, patched: Told
) -> None:
    report = patched.report(PLAIN)
    assert report["reason"] == ""
    assert (report["before"], report["after"]) == (CURRENT, GOOD)
    assert report["validated"]
    assert not fates.is_cordoned(PLAIN)
    assert fates.lab[PLAIN].driver() == GOOD
    packages = fates.packages(PLAIN)
    for name in ("nvidia-driver", "nvidia-kernel-dkms", "nvidia-fabricmanager"):
        assert f"{name} {GOOD}-1 installed hold" in packages


@pytest.mark.parametrize(
    ("host", "why"),
    [
        pytest.param(BROKEN, "dpkg returned an error code", id="fails in its post-install"),
        pytest.param(BREAKS, "wanted driver", id="breaks after the restart"),
        pytest.param(UNFIT, "not fit to serve: pcie", id="fails its validation"),
    ],
)
def test_a_driver_that_breaks_goes_back_by_itself(
    fates: PatchedLab, patched: Told, host: str, why: str
) -> None:
    report = patched.report(host)
    assert why in report["reason"]
    assert report["after"] == CURRENT
    assert (report["quarantined"], report["validated"]) == (False, True)
    assert not fates.is_cordoned(host)
    assert fates.lab[host].driver() == CURRENT
    assert f"nvidia-driver {CURRENT}-1 installed hold" in fates.packages(host)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        pytest.param(LOST, "", id="does not return"),
        pytest.param(SICK, "not fit to serve: row", id="is not fit with its former driver either"),
    ],
)
def test_a_host_that_does_not_come_back_is_quarantined_and_stays_cordoned(
    fates: PatchedLab, patched: Told, host: str, why: str
) -> None:
    report = patched.report(host)
    assert why in report["reason"]
    assert (report["quarantined"], report["validated"]) == (True, False)
    assert fates.is_cordoned(host)
    assert fates.is_quarantined(host)
    assert fates.annotation(host, QUARANTINE_REASON)


def test_a_host_without_space_is_untouched_and_in_service(
    fates: PatchedLab, before: dict[str, str], patched: Told
) -> None:
    assert "not enough space" in patched.report(FULL)["reason"]
    assert not fates.is_cordoned(FULL)
    assert fates.packages(FULL) == before[FULL]
    assert fates.lab[FULL].driver() == CURRENT


def test_who_holds_a_gpu_is_named_and_the_host_serves_as_before(
    fates: PatchedLab, patched: Told
) -> None:
    report = patched.report(HELD)
    assert "sleep (" in report["reason"]
    assert report["validated"]
    assert not fates.is_cordoned(HELD)
    assert fates.lab[HELD].driver() == CURRENT


def test_an_installation_goes_on_where_the_connection_was_lost(
    fates: PatchedLab, patched: Told
) -> None:
    assert patched.report(CUT)["reason"] == ""
    assert fates.lab[CUT].driver() == GOOD
    assert not fates.is_cordoned(CUT)


def test_a_host_that_is_gone_stays_cordoned_until_it_is_quarantined_without_ssh(
    fates: PatchedLab, patched: Told
) -> None:
    assert patched.facts["stats"][GONE]["unreachable"] == 1
    assert "gpufleet" not in patched.facts["custom_stats"].get(GONE, {})
    assert fates.is_cordoned(GONE)
    assert fates.annotation(GONE, CORDONED_BY).startswith("patch/")
    told = quarantine(fates, GONE, "present")
    assert (told.code, told.messages.strip()) == (0, "")
    assert fates.is_quarantined(GONE)
    assert fates.is_cordoned(GONE)
    # It comes back validated, and not otherwise.
    told = quarantine(fates, GONE, "absent")
    assert told.code != 0
    assert fates.is_quarantined(GONE)
    fates.lab[GONE].plug()
    told = quarantine(fates, GONE, "absent")
    assert told.code == 0, told.messages
    assert told.report(GONE)["validated"]
    assert not fates.is_quarantined(GONE)
    assert not fates.is_cordoned(GONE)


def test_what_was_killed_in_the_middle_is_completed_by_the_next_run(
    fates: PatchedLab, again: Told
) -> None:
    report = again.report(KILLED)
    assert report["reason"] == ""
    assert report["validated"]
    assert fates.lab[KILLED].driver() == GOOD
    assert not fates.is_cordoned(KILLED)
    record = json.loads(fates.lab[KILLED].path(RECORD).read_text(encoding="utf-8"))
    assert (record["state"], record["before"]) == ("done", CURRENT)


def test_the_second_run_changes_nothing(again: Told) -> None:
    assert again.report(PLAIN)["reason"] == ""
    assert [name for name in again.changing(PLAIN) if TOKEN_TASK not in name] == []


@pytest.mark.parametrize(
    "host",
    [pytest.param(PLAIN, id="patched"), pytest.param(LEFT, id="killed in the middle")],
)
def test_rollback_brings_a_host_back_to_what_it_had(
    fates: PatchedLab, before: dict[str, str], returned: list[Told], host: str
) -> None:
    first, second = (told.report(host) for told in returned)
    assert first["reason"] == second["reason"] == ""
    assert (first["after"], first["validated"]) == (CURRENT, True)
    assert fates.lab[host].driver() == CURRENT
    assert fates.packages(host).replace("hold", "install") == before[host].replace(
        "hold", "install"
    )
    assert not fates.is_cordoned(host)
    assert [name for name in returned[1].changing(host) if TOKEN_TASK not in name] == []


def test_rollback_touches_no_host_that_was_not_patched(
    fates: PatchedLab, before: dict[str, str], returned: list[Told]
) -> None:
    for told in returned:
        assert "the host remembers none to go back to" in told.report(FULL)["reason"]
    assert fates.packages(FULL) == before[FULL]
    assert not fates.is_cordoned(FULL)
