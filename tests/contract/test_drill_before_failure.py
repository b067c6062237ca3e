"""What a drill for real finds out before it hits production; clusters stand in for real ones."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import small_fleet
from tests.contract.stand_in_cluster import StandIn

from gpufleet.core.drills.production import TAKEN_BY, mark_of
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.drills import stage as stages
from gpufleet.flows.drills.production import Production
from gpufleet.flows.ground import Ground
from gpufleet.spec.drills import Reason, Scaled
from gpufleet.spec.errors import Failed

FLOW, OTHER = "drill-for-real-1", "drill-for-real-0"
EAST, WEST = "east", "west"
WORKLOAD = "/apis/apps/v1/namespaces/gpufleet-interactive/deployments/answers"


class Fields(StandIn):
    """A cluster that also takes single fields, whoever owns them."""

    def set_fields(self, path: str, body: dict[str, Any], manager: str) -> None:
        del manager
        for part, content in body.items():
            there = self.objects.setdefault(path, {}).setdefault(part, {})
            for name, value in content.items():
                there[name] = {**there.get(name, {}), **value} if isinstance(value, dict) else value


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    opened = Ground.open(Workspace(tmp_path), PROJECT_ROOT / "fleets/article/production.yaml")
    yield replace(opened, fleet=small_fleet(EAST, WEST))
    opened.close()


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fields]:
    made = {site: Fields() for site in (EAST, WEST)}
    monkeypatch.setattr(stages, "cluster_of", lambda _fleet, _state, site: made[site])
    return made


def taken(**more: object) -> Scaled:
    about = {
        "pool": "answers",
        "site": EAST,
        "node_group": "east-h100",
        "reason": Reason.LOST,
        "kind": "Deployment",
        "namespace": "gpufleet-interactive",
        "before": 2,
        "left": 0,
    }
    return Scaled.model_validate({**about, **more})


def test_what_another_drill_has_taken_is_taken_by_no_second_one(
    ground: Ground, clusters: dict[str, Fields]
) -> None:
    clusters[EAST].objects[WORKLOAD] = {"metadata": {}, "spec": {"replicas": 2}}
    Production(ground, OTHER, EAST).scale_away(taken())
    # Tried again it finds its own mark.
    Production(ground, OTHER, EAST).scale_away(taken())
    with pytest.raises(Failed, match=f"{mark_of(OTHER)} has taken it"):
        Production(ground, FLOW, EAST).scale_away(taken(before=0))
    found = clusters[EAST].objects[WORKLOAD]
    assert found["metadata"]["annotations"][TAKEN_BY] == mark_of(OTHER)
