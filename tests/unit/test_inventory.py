"""From node groups to nodes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.inventory import binary_quantity, expand, expand_site
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet


@pytest.fixture(scope="module")
def sample() -> Fleet:
    return load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")


def test_every_declared_gpu_is_on_a_node_of_its_site(sample: Fleet) -> None:
    nodes = expand(sample)
    assert len({node.name for node in nodes}) == len(nodes) == 64
    assert sum(node.gpus for node in nodes) == 512
    for node in nodes:
        assert sample.racks[node.rack].site == node.site == sample.node_groups[node.group].site


def test_nodes_are_dealt_evenly_to_racks(sample: Fleet) -> None:
    for name, group in sample.node_groups.items():
        counts = Counter(node.rack for node in expand(sample) if node.group == name)
        assert set(counts) == set(group.racks)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_labels_are_those_of_gpu_feature_discovery(sample: Fleet) -> None:
    node = expand_site(sample, "fra1")[0]
    assert node.labels["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert node.labels["nvidia.com/gpu.count"] == "8"
    assert node.labels["nvidia.com/gpu.memory"] == "81920"
    assert node.labels["nvidia.com/cuda.driver.major"] == "580"


@given(st.integers(1, 2**55))
def test_a_quantity_loses_less_than_a_mebibyte_and_is_canonical(size_bytes: int) -> None:
    text = binary_quantity(size_bytes)
    amount, suffix = int(text[:-2]), text[-2:]
    factor = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}[suffix]
    assert 0 <= size_bytes - amount * factor < 2**20
    assert suffix == "Pi" or amount == 0 or amount % 1024
