"""What does not go together is refused before anything is touched, and so is what is not known."""

from collections.abc import Sequence

import pytest

from gpufleet.core.patching.compatibility import (
    HostStack,
    architecture_of,
    demand_compatible,
    demand_order_compatible,
)
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.compatibility import (
    Assumption,
    Compatibility,
    Requirement,
    built_in_compatibility,
)
from gpufleet.spec.errors import EXIT_BAD_INPUT, BadInput
from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.load import built_in_gpus
from gpufleet.spec.patch_cycle import InstalledVersion
from gpufleet.spec.patching import COMPONENT_OF, PARTS, HostChange, Part, PatchOrder

SAMPLE = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
TABLE = built_in_compatibility()
GROUP = "fra1-chat"


def stack(**of: str) -> HostStack:
    return HostStack(**{"driver": "580.105.08", "cuda": "13.0", **of})


def knowing(requirements: Sequence[Requirement] = (), assume: Sequence[Assumption] = ()) -> Fleet:
    declared = Compatibility(requirements=list(requirements), assume=list(assume))
    return SAMPLE.model_copy(update={"compatibility": declared})


@pytest.mark.parametrize("driver", ["580.95.05", "580.105.08", "580.126.09", "590.44.01"])
@pytest.mark.parametrize("group", SAMPLE.node_groups)
def test_current_drivers_go_with_every_node_group_of_the_sample(group: str, driver: str) -> None:
    pinned = HostStack.pinned(SAMPLE.node_groups[group].pins)
    order = PatchOrder(component=PatchTarget.DRIVER, part=Part.DRIVER, version=driver)
    demand_compatible(SAMPLE, group, pinned.after(order))


@pytest.mark.parametrize(
    ("has", "told"),
    [
        ({"driver": "700.10"}, "nothing is known of driver 700.10: no row for branch 700"),
        (
            {"kernel": "3.10.0-1160.el7.x86_64"},
            "driver 580.105.08 needs kernel 4.15 or newer, and it is 3.10.0-1160",
        ),
        (
            {"driver": "535.261.03"},
            "driver 535.261.03 runs programs of CUDA 12 and older, and cuda is 13.0",
        ),
        (
            {"fabric_manager": "580.95.05"},
            "fabric manager 580.95.05 has to be of the same version as driver 580.105.08",
        ),
    ],
)
def test_what_does_not_go_together_is_one_error_that_names_the_group(
    has: dict[str, str], told: str
) -> None:
    with pytest.raises(BadInput) as refused:
        demand_compatible(SAMPLE, GROUP, stack(**has))
    assert refused.value.what == told
    assert refused.value.where == "node_groups.fra1-chat"
    assert refused.value.exit_code == EXIT_BAD_INPUT
    assert "compatibility.assume" in refused.value.mend


def test_the_error_names_the_drivers_that_would_do() -> None:
    old = stack(kernel="3.10.0-1160.el7", cuda="12.4")
    with pytest.raises(BadInput, match="drivers that go with the rest: 535, 550;"):
        demand_compatible(SAMPLE, GROUP, old)


def test_a_driver_that_no_other_branch_could_replace_names_none() -> None:
    with pytest.raises(BadInput) as refused:
        demand_compatible(SAMPLE, GROUP, stack(kernel="2.6.32"))
    assert "drivers that go" not in refused.value.mend


def test_a_gpu_is_served_by_drivers_from_its_first_to_its_last() -> None:
    old = SAMPLE.gpus["h100-sxm"].model_copy(update={"product": "Tesla-V100-SXM2-16GB"})
    fleet = SAMPLE.model_copy(update={"gpus": {**SAMPLE.gpus, "h100-sxm": old}})
    demand_compatible(fleet, GROUP, stack())
    with pytest.raises(BadInput, match="does not serve volta any more; 580 is its last"):
        demand_compatible(fleet, GROUP, stack(driver="590.44.01"))
    new = SAMPLE.gpus["h100-sxm"].model_copy(update={"product": "NVIDIA-B200"})
    fleet = SAMPLE.model_copy(update={"gpus": {**SAMPLE.gpus, "h100-sxm": new}})
    demand_compatible(fleet, GROUP, stack(driver="570.133.20", cuda="12.8"))
    with pytest.raises(BadInput, match=r"570\.124\.06 is too old for blackwell"):
        demand_compatible(fleet, GROUP, stack(driver="570.124.06", cuda="12.8"))


def test_a_gpu_that_the_table_does_not_know_is_refused_unless_it_is_assumed() -> None:
    strange = SAMPLE.gpus["h100-sxm"].model_copy(update={"product": "ACME-X1"})
    changed = {"gpus": {**SAMPLE.gpus, "h100-sxm": strange}}
    with pytest.raises(BadInput, match="nothing is known of drivers for ACME-X1"):
        demand_compatible(SAMPLE.model_copy(update=changed), GROUP, stack())
    fleet = knowing(assume=[Assumption(driver="580", node_groups=[GROUP], why="tried")])
    demand_compatible(fleet.model_copy(update=changed), GROUP, stack())


def test_an_assumption_holds_for_its_groups_and_drivers_alone() -> None:
    fleet = knowing(assume=[Assumption(driver="700.10", node_groups=[GROUP], why="tried")])
    demand_compatible(fleet, GROUP, stack(driver="700.10"))
    with pytest.raises(BadInput):
        demand_compatible(fleet, "fra1-code", stack(driver="700.10"))
    with pytest.raises(BadInput):
        demand_compatible(fleet, GROUP, stack(driver="700.11"))


LETTER = Requirement(
    driver="580",
    gpu_types=["h100-sxm"],
    vbios_min="96.00.D0.00.01",
    bmc_min="24.10.1",
    kernel_below="6.13",
    source="letter of 2026-03-01",
)


@pytest.mark.parametrize(
    ("has", "told"),
    [
        (
            {"vbios": "96.00.CF.00.01"},
            "needs VBIOS 96.00.D0.00.01 or newer, and it is 96.00.CF.00.01 (letter of 2026-03-01)",
        ),
        ({"bmc": "24.09.17"}, "needs BMC 24.10.1 or newer, and it is 24.09.17"),
        ({"kernel": "6.14.0-15-generic"}, "needs a kernel older than 6.13, and it is 6.14.0-15"),
    ],
)
def test_a_vendors_requirement_holds_beside_the_table_and_over_any_assumption(
    has: dict[str, str], told: str
) -> None:
    assumed = Assumption(driver="580", why="tried")
    for fleet in (knowing(requirements=[LETTER]), knowing(requirements=[LETTER], assume=[assumed])):
        with pytest.raises(BadInput) as refused:
            demand_compatible(fleet, GROUP, stack(**has))
        assert told in refused.value.what
        demand_compatible(fleet, "fra1-legal", stack(**has))


def test_what_nobody_knows_of_a_host_is_not_held_against_it() -> None:
    demand_compatible(knowing(requirements=[LETTER]), GROUP, stack())


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (Part.KERNEL, "kernel"),
        (Part.TOOLKIT, "container_toolkit"),
        (Part.VBIOS, "vbios"),
        (Part.BMC, "bmc"),
    ],
)
def test_the_stack_after_an_order_has_its_version(part: Part, field: str) -> None:
    order = PatchOrder(component=COMPONENT_OF[part], part=part, version="1.2.3")
    assert getattr(stack().after(order), field) == "1.2.3"
    assert stack().after(order).driver == "580.105.08"


def test_every_part_belongs_to_one_component() -> None:
    assert sorted(part for parts in PARTS.values() for part in parts) == sorted(Part)


def test_what_a_host_was_seen_with_counts_before_its_pins() -> None:
    order = PatchOrder(component=PatchTarget.DRIVER, part=Part.DRIVER, version="580.105.08")
    hosts = [
        HostChange(
            host=f"{GROUP}-{number:03d}",
            site="fra1",
            rack="fra1-r1",
            node_group=GROUP,
            pools=["chat"],
            before="",
            after=order.version,
        )
        for number in (1, 2)
    ]
    demand_order_compatible(SAMPLE, order, hosts, [])
    old = InstalledVersion(node=f"{GROUP}-002", part="kernel", version="3.10.0-1160.el7")
    with pytest.raises(BadInput, match=r"needs kernel 4\.15 or newer, and it is 3\.10\.0-1160"):
        demand_order_compatible(SAMPLE, order, hosts, [old])
    demand_order_compatible(SAMPLE, order, hosts[:1], [old])


def test_a_running_hosts_fabric_manager_is_of_its_drivers_version() -> None:
    pinned = HostStack.pinned(SAMPLE.node_groups[GROUP].pins)
    assert pinned.seen({"driver": "575.57.08"}).fabric_manager == "575.57.08"
    told = pinned.seen({"driver": "575.57.08", "fabric-manager": "1", "containerd": "2"})
    assert told.fabric_manager == "1"


@pytest.mark.parametrize("gpu", built_in_gpus())
def test_every_gpu_of_the_catalogue_has_an_architecture(gpu: str) -> None:
    assert architecture_of(TABLE, built_in_gpus()[gpu]["product"]) is not None


def test_every_row_of_the_table_says_where_it_was_read() -> None:
    said = [
        *(row.sources for row in TABLE.branches.values()),
        *(row.sources for row in TABLE.architectures.values()),
    ]
    assert all("." in source for sources in said for source in sources)
