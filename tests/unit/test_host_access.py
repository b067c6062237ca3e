"""What the worker is given to reach hosts, of whoever runs `up`."""

import stat
from pathlib import Path

import pytest

from gpufleet.edges.workspace import EnvironmentDir
from gpufleet.local.host_access import host_access, keep_host_access

NAMES = ("SSH_AUTH_SOCK", "GPUFLEET_BMC_USER", "GPUFLEET_BMC_PASSWORD")
GIVEN = {"SSH_AUTH_SOCK": "/run/agent", "GPUFLEET_BMC_USER": "mara", "AWS_SECRET": "no"}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EnvironmentDir:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return EnvironmentDir(tmp_path / "state")


def test_only_what_hosts_need_is_kept_and_only_its_owner_may_read_it(
    state: EnvironmentDir,
) -> None:
    keep_host_access(state, GIVEN)
    assert host_access(state) == {"SSH_AUTH_SOCK": "/run/agent", "GPUFLEET_BMC_USER": "mara"}
    (file,) = state.root.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_up_without_an_agent_leaves_the_last_one(state: EnvironmentDir) -> None:
    keep_host_access(state, GIVEN)
    keep_host_access(state, {"GPUFLEET_BMC_USER": "jonas"})
    assert host_access(state) == {"SSH_AUTH_SOCK": "/run/agent", "GPUFLEET_BMC_USER": "jonas"}


def test_a_worker_with_an_agent_of_its_own_uses_that(
    state: EnvironmentDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_host_access(state, GIVEN)
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/other")
    assert host_access(state) == {"GPUFLEET_BMC_USER": "mara"}


def test_nothing_was_kept_yet(state: EnvironmentDir) -> None:
    assert host_access(state) == {}
