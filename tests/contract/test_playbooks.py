"""Playbooks pass the guard, and take nodes out of service and back, on a real API server."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.contract.patched_nodes import HOST, OTHER, SITE, Patched, environment
from tests.playbooks import PLAYBOOKS, Told

from gpufleet.edges.workspace import Workspace
from gpufleet.flows.cordons import clear_stale_marks, has_left
from gpufleet.flows.hosts import read_inventory
from gpufleet.spec.records import Claim

if TYPE_CHECKING:
    from tests.conftest import Embedded, Until

SPACE = "drained"
PODS = f"/api/v1/namespaces/{SPACE}/pods"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{SPACE}/deployments"
BUDGETS = f"/apis/policy/v1/namespaces/{SPACE}/poddisruptionbudgets"
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def patched(
    embedded: "Embedded", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: "Until"
) -> Iterator[Patched]:
    monkeypatch.setenv("GPUFLEET_DATABASE_URL", f"sqlite:///{tmp_path / 'fleet.db'}")
    cluster = embedded.cluster(SITE)
    cluster.create(
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}},
    )
    with environment(tmp_path, cluster, embedded.state.kubeconfig) as made:
        yield made
        for path in (BUDGETS, DEPLOYMENTS):
            for found in cluster.items(path):
                cluster.delete(f"{path}/{found['metadata']['name']}")
        made.clear(HOST)
        made.clear(OTHER)
        until(lambda: not cluster.items(PODS))
    cluster.close()


def serve(patched: Patched, until: "Until", *, replicas: int, at_least: int | None = None) -> None:
    """Replicas that tolerate GPU nodes, with a disruption budget where one is asked for."""
    labels = {"app": "served"}
    container = {
        "name": "main",
        "image": "example/engine:1",
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
    }
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "containers": [container],
            "volumes": [{"name": "cache", "emptyDir": {"medium": "Memory"}}],
        },
    }
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": "served", "namespace": SPACE}
    patched.cluster.apply(
        f"{DEPLOYMENTS}/served",
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec},
    )
    until(lambda: len(nodes_of(patched)) == replicas and all(nodes_of(patched)))
    if at_least is not None:
        budget = {"minAvailable": at_least, "selector": {"matchLabels": labels}}
        patched.cluster.apply(
            f"{BUDGETS}/served",
            {
                "apiVersion": "policy/v1",
                "kind": "PodDisruptionBudget",
                "metadata": metadata,
                "spec": budget,
            },
        )
        until(
            lambda: (
                (patched.cluster.get(f"{BUDGETS}/served") or {})
                .get("status", {})
                .get("currentHealthy")
                == replicas
            )
        )


def nodes_of(patched: Patched) -> list[str]:
    """The nodes of the replicas that are not on their way out."""
    return sorted(
        str(pod["spec"].get("nodeName", ""))
        for pod in patched.cluster.items(PODS)
        if "deletionTimestamp" not in pod["metadata"]
    )


GUARDED = f"""
- name: Guard
  ansible.builtin.import_playbook: {PLAYBOOKS / "_guard.yml"}
- name: Lock
  hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {{name: host_lock}}
"""


def guarded(patched: Patched, *arguments: str) -> Told:
    """Pass the guard and lock the host, which is all that freezes and leases decide about."""
    playbook = patched.folder / "guarded.yml"
    playbook.write_text(GUARDED)
    return patched.run(playbook, *arguments)


def test_a_node_is_drained_under_our_mark_and_takes_work_again(
    patched: Patched, until: "Until"
) -> None:
    serve(patched, until, replicas=4)
    told = patched.around("-e", "uncordon=false")
    assert told.code == 0, told.messages
    [begun] = patched.events("playbook.begun")
    assert begun.body["hosts"] == [HOST]
    assert patched.is_cordoned()
    assert patched.mark() == f"patch/{begun.flow}"
    until(lambda: set(nodes_of(patched)) == {OTHER})
    assert not patched.is_cordoned(OTHER)

    # Another run by hand has a higher token: it takes over what the first one has left.
    told = patched.around("-e", "node_uncordon_validated=true")
    assert told.code == 0, told.messages
    assert not patched.is_cordoned()
    assert patched.mark() is None
    assert told.report(HOST)["uncordoned"] is True


def test_check_mode_shows_the_cordon_and_changes_nothing(patched: Patched, until: "Until") -> None:
    serve(patched, until, replicas=2)
    before = nodes_of(patched)
    told = patched.around("--check")
    assert told.code == 0, told.messages
    assert told.changed[HOST] > 0
    assert not patched.is_cordoned()
    assert patched.mark() is None
    assert nodes_of(patched) == before
    assert patched.events("playbook.begun") == []
    assert not (patched.folder / "lock").exists()


def test_a_node_that_somebody_else_cordoned_stays_theirs(patched: Patched) -> None:
    patched.cluster.merge(f"/api/v1/nodes/{HOST}", {"spec": {"unschedulable": True}})
    told = patched.around("-e", "node_uncordon_validated=true")
    assert told.code != 0
    assert "cordoned by somebody else" in told.messages
    assert patched.is_cordoned()
    assert patched.mark() is None


def test_a_budget_that_blocks_is_told_and_the_node_is_given_back(
    patched: Patched, until: "Until"
) -> None:
    serve(patched, until, replicas=4, at_least=4)
    before = nodes_of(patched)
    told = patched.around("-e", "node_drain_timeout_s=4", "-e", "node_drain_retry_s=1")
    assert told.code != 0
    assert "disruption budget" in told.messages
    assert "host was not touched" in told.messages
    assert not patched.is_cordoned()
    assert patched.mark() is None
    assert nodes_of(patched) == before


def test_a_node_that_was_not_validated_stays_cordoned(patched: Patched) -> None:
    told = patched.around()
    assert told.code != 0
    assert "was not validated" in told.messages
    assert patched.is_cordoned()


def test_a_freeze_holds_a_playbook_by_hand_in_check_mode_too(patched: Patched) -> None:
    patched.freeze("quarter end", timedelta(hours=-1), timedelta(hours=3))
    for arguments in ((), ("--check",)):
        told = patched.around(*arguments)
        assert told.code != 0
        assert "freeze `quarter end`" in told.messages
        assert "the next opening is" in told.messages
    assert not patched.is_cordoned()


def test_what_would_not_end_before_a_freeze_does_not_begin(patched: Patched) -> None:
    patched.freeze("quarter end", timedelta(hours=2), timedelta(hours=3))
    told = patched.around("-e", "gpufleet_needs_s=9000")
    assert told.code != 0
    assert "would not end, with its rollback, before freeze `quarter end`" in told.messages
    assert guarded(patched, "-e", "gpufleet_needs_s=60", "--check").code == 0


def test_a_rollback_goes_on_in_a_freeze_and_is_journalled_as_such(patched: Patched) -> None:
    patched.freeze("quarter end", timedelta(hours=-1), timedelta(hours=3))
    back = patched.folder / "rollback.yml"
    back.write_text(GUARDED)
    told = patched.run(back)
    assert told.code == 0, told.messages
    [exempted] = patched.events("freeze.exempted")
    assert exempted.body["purpose"] == "rollback"
    assert "quarter end" in str(exempted.body["freeze"])


@pytest.mark.parametrize("purpose", ["rollback", "quarantine"])
def test_no_variable_lets_a_change_through_a_freeze(patched: Patched, purpose: str) -> None:
    patched.freeze("quarter end", timedelta(hours=-1), timedelta(hours=3))
    told = patched.around("-e", f"gpufleet_purpose={purpose}", "-e", "freeze_guard_changes=false")
    assert told.code != 0
    assert "is what a flow says" in told.messages
    told = patched.around(
        "-e", f"freeze_guard_purpose={purpose}", "-e", "freeze_guard_changes=false"
    )
    assert told.code != 0
    assert "freeze `quarter end`" in told.messages
    assert not patched.is_cordoned()


TOO_OLD = ("-e", "gpufleet_version=450.80.02")
"""Refused before anything of the machine is looked at that could be changed."""


def test_a_host_that_is_refused_before_it_is_touched_has_its_node_given_back(
    patched: Patched,
) -> None:
    # An earlier try of the same flow was killed after the cordon.
    flow = patched.held("flow-1")
    patched.cordon("patch/flow-1")
    told = patched.run(PLAYBOOKS / "drivers.yml", *TOO_OLD, *patched.record(), *flow)
    assert told.code != 0
    assert "nothing is known of driver 450.80.02" in told.messages
    assert not patched.is_cordoned()
    assert patched.mark() is None
    report = told.report(HOST)
    assert (report["touched"], report["uncordoned"], report["held"]) == (False, True, False)
    assert report["record_open"] == "false"


def test_a_host_that_an_earlier_run_left_half_patched_is_never_given_back(
    patched: Patched, until: "Until"
) -> None:
    serve(patched, until, replicas=4)
    patched.cordon("patch/flow-1")
    told = patched.run(
        PLAYBOOKS / "drivers.yml",
        *TOO_OLD,
        *patched.record(state="begun", before=""),
        *patched.held("flow-1"),
    )
    assert told.code != 0
    assert patched.is_cordoned()
    report = told.report(HOST)
    assert (report["touched"], report["quarantined"]) == (True, True)
    assert report["record_open"] == "true"
    assert "there is no way back" in report["reason"]


def test_a_drain_that_is_blocked_gives_no_half_patched_host_back(
    patched: Patched, until: "Until"
) -> None:
    serve(patched, until, replicas=4, at_least=4)
    resumed = patched.folder / "resumed.yml"
    lines = (patched.folder / "around.yml").read_text()
    before, cordon, after = lines.partition(
        "    - ansible.builtin.include_role: {name: node_cordon}"
    )
    read = "    - ansible.builtin.include_role: {name: patch_record}\n"
    resumed.write_text(f"{before}{read}{cordon}{after}")
    told = patched.run(
        resumed,
        *patched.record(state="begun", before="580.95.05"),
        *("-e", "gpufleet_part=driver", "-e", "node_drain_timeout_s=4"),
        *("-e", "node_drain_retry_s=1"),
    )
    assert told.code != 0
    assert "stays cordoned, since a change of its host has not ended" in told.messages
    assert patched.is_cordoned()


def test_a_person_s_cordon_is_not_taken_over_by_a_mark_that_was_left_on_the_node(
    patched: Patched,
) -> None:
    patched.cordon("patch/patch-gone")
    assert not has_left(patched.ground, "patch-gone", HOST)
    told = patched.around("-e", "node_uncordon_validated=true")
    assert told.code != 0
    assert "cordoned by somebody else (patch/patch-gone" in told.messages
    assert patched.is_cordoned()


def test_marks_on_nodes_that_take_work_are_cleared_and_those_of_cordons_stay(
    patched: Patched,
) -> None:
    patched.cordon("patch/flow-1")
    assert clear_stale_marks(patched.ground) == []
    assert patched.mark() == "patch/flow-1"
    # As kubectl uncordon does.
    patched.cluster.merge(f"/api/v1/nodes/{HOST}", {"spec": {"unschedulable": None}})
    assert clear_stale_marks(patched.ground) == [HOST]
    assert patched.mark() is None
    assert clear_stale_marks(patched.ground) == []


def test_a_half_patched_host_does_not_leave_quarantine_nor_any_beside_a_patch(
    patched: Patched,
) -> None:
    playbook = PLAYBOOKS / "quarantine.yml"
    back = ("-e", '{"gpufleet_reason": "well again"}', "-e", "gpufleet_quarantine=absent")
    with patched.ground.holding(f"patch:{SITE}", why="a patch"):
        told = patched.run(playbook, *back, *patched.record())
        assert "held by a patch by" in told.messages
        # Out it goes at once.
        told = patched.run(playbook, "-e", "gpufleet_reason=XID")
        assert told.code == 0, told.messages
    told = patched.run(playbook, *back, *patched.record(state="begun", before="580.95.05"))
    assert told.code != 0
    assert "a change of `driver` to 580.105.08 has not ended" in told.messages
    assert patched.is_cordoned()


def test_one_operator_patches_a_site_at_a_time(patched: Patched, until: "Until") -> None:
    with patched.ground.holding(f"patch:{SITE}", why="a patch"):
        told = patched.around()
        assert told.code != 0
        assert "held by a patch by" in told.messages
        assert not patched.is_cordoned()
    told = guarded(patched)
    assert told.code == 0, told.messages
    # Its keeper has seen it end.
    until(lambda: not patched.ground.leases.held())


def test_a_flow_that_has_lost_its_lease_touches_no_host(patched: Patched) -> None:
    claim = Claim(target=f"patch:{SITE}", owner="flow-1", holder="flow-1")
    old = patched.ground.leases.acquire(claim)
    told = guarded(patched, "-e", "gpufleet_flow=flow-1", "-e", f"gpufleet_fence={old.token}")
    assert told.code == 0, told.messages
    patched.ground.leases.acquire(claim)
    told = patched.around("-e", "gpufleet_flow=flow-1", "-e", f"gpufleet_fence={old.token}")
    assert told.code != 0
    assert "another worker has taken over" in told.messages
    assert not patched.is_cordoned()


def test_a_host_in_no_pool_and_a_wave_that_is_not_there_are_refused(patched: Patched) -> None:
    told = patched.around(hosts="spare-001")
    assert told.code != 0
    assert "host spare-001: it is in no pool" in told.messages
    told = patched.run(PLAYBOOKS / "validate.yml", "-e", "wave=9", hosts="all")
    assert told.code != 0
    assert "wave_9" in told.messages


def test_a_node_in_quarantine_stays_there_until_it_is_validated(patched: Patched) -> None:
    playbook = PLAYBOOKS / "quarantine.yml"
    why = ("-e", '{"gpufleet_reason": "XID 79 twice"}')
    told = patched.run(playbook, *why)
    assert told.code == 0, told.messages
    node = patched.node()
    assert node["metadata"]["annotations"]["gpufleet.dev/quarantine-reason"] == "XID 79 twice"
    assert node["metadata"]["labels"]["gpufleet.dev/quarantined"] == "true"
    assert [taint["key"] for taint in node["spec"]["taints"]].count("gpufleet.dev/quarantined") == 1
    assert patched.is_cordoned()
    [event] = patched.events("host.quarantined")
    assert event.target == HOST
    groups = read_inventory(Workspace.here(), patched.file).groups
    assert groups["state_quarantined"] == [HOST]
    assert told.report(HOST)["quarantined"] is True

    again = patched.run(playbook, *why)
    assert again.code == 0, again.messages
    assert again.changed[HOST] == 0

    # This machine has no GPU, so that nothing lets it back.
    back = patched.run(playbook, *why, "-e", "gpufleet_quarantine=absent", *patched.record())
    assert back.code != 0
    assert "is not fit to serve" in back.messages
    assert patched.is_cordoned()
    told = patched.around("-e", "node_uncordon_validated=true")
    assert f"node {HOST} is quarantined: XID 79 twice" in told.messages
