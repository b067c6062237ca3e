"""What a playbook that a person has started may take out of service."""

from typing import Any

from gpufleet.core.patching.by_hand import breaker_refusal, hosts_refusal
from gpufleet.core.patching.capacity import PoolCapacity
from gpufleet.spec.patching import HostChange


def host(name: str, rack: str = "r1") -> HostChange:
    return HostChange(
        host=name, site="fra1", rack=rack, node_group="h100", pools=["chat"], before="", after=""
    )


def load(**changes: Any) -> dict[tuple[str, str], PoolCapacity]:  # noqa: ANN401 - any field
    slots = {"gpu-1": 4, "gpu-2": 4, "gpu-3": 4}
    given: dict[str, Any] = {"wanted": 5, "ready": 5, "min_available": 0.8, "slots": slots}
    return {("fra1", "chat"): PoolCapacity(**(given | changes))}


def refusal(*hosts: HostChange, is_rollback: bool = False, **changes: Any) -> str:  # noqa: ANN401
    return hosts_refusal(hosts, load(**changes), is_rollback=is_rollback)


def test_one_host_goes_where_its_pool_keeps_its_promise_without_it() -> None:
    assert refusal(host("gpu-1")) == ""


def test_hosts_that_would_break_a_promise_together_do_not_go_together() -> None:
    assert "one at a time" in refusal(host("gpu-1"), host("gpu-2"))


def test_a_batch_over_two_racks_is_refused() -> None:
    assert "more than one rack" in refusal(host("gpu-1"), host("gpu-2", "r2"))


def test_a_pool_that_nobody_knows_is_no_pool_with_room() -> None:
    assert "nobody knows" in hosts_refusal([host("gpu-1")], {}, is_rollback=False)


def test_a_pool_below_its_promise_holds_back_a_change_and_not_what_may_mend_it() -> None:
    assert "has to recover first" in refusal(host("gpu-1"), ready=3)
    assert refusal(host("gpu-1"), ready=3, is_rollback=True) == ""


def test_a_rollback_takes_no_pool_below_its_promise() -> None:
    assert "none may be moved" in refusal(host("gpu-1"), ready=4, is_rollback=True)


def test_a_host_that_is_out_already_and_empty_may_be_patched_whatever_its_pool_does() -> None:
    out: dict[str, Any] = {"slots": {"gpu-2": 4}, "idle": frozenset({"gpu-1"})}
    assert refusal(host("gpu-1"), ready=3, **out) == ""
    still_holds: dict[str, Any] = {**out, "idle": frozenset()}
    assert "has to recover first" in refusal(host("gpu-1"), ready=3, **still_holds)


def test_after_a_failure_nothing_more_is_begun_unless_it_was_allowed() -> None:
    assert breaker_refusal([], 0) == ""
    assert "gpu-1" in breaker_refusal(["gpu-1"], 0)
    assert breaker_refusal(["gpu-1"], 1) == ""
