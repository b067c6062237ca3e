"""Whether a host's GPUs are fit to serve, by what its tools print."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpufleet.core.patching.settling import unsettled
from gpufleet.core.patching.validation import Answer, Expected, Validation, judge, unfit
from gpufleet.core.patching.xids import APPLICATION_XIDS, xid_lines
from gpufleet.spec.hardware import GpuFabric

QUERY = """0, 00000000:1B:00.0, 580.95.05, 96.00.CF.00.01, 16, 16
1, 00000000:43:00.0, 580.95.05, 96.00.CF.00.01, 16, 16
"""
ROWS = """00000000:1B:00.0, 0, 0
00000000:43:00.0, No, No
"""
LINKS = """GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)
\t Link 0: 26.562 GB/s
\t Link 1: 26.562 GB/s
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-2)
\t Link 0: 26.562 GB/s
\t Link 1: 26.562 GB/s
"""
DIAGNOSTICS = {
    "DCGM Diagnostic": {
        "test_categories": [
            {
                "category": "Deployment",
                "tests": [
                    {"name": "software", "results": [{"gpu_id": "0", "status": "Pass"}]},
                    {"name": "memory", "results": [{"gpu_id": "0", "status": "Skip"}]},
                ],
            }
        ]
    }
}
RUNTIME = {
    "status": {
        "conditions": [
            {"type": "RuntimeReady", "status": True, "reason": "", "message": ""},
            {"type": "NetworkReady", "status": True, "reason": "", "message": ""},
        ]
    }
}
FABRIC = """GPU 00000000:1B:00.0
    Fabric
        State                             : Completed
        Status                            : Success
GPU 00000000:43:00.0
    Fabric
        State                             : Completed
        Status                            : Success
"""
FALLEN = "NVRM: Xid (PCI:0000:1b:00): 79, pid=1, GPU has fallen off the bus."
COLLECTIVE = "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 391.25\n"
SOUND = {
    "query": Answer(0, QUERY),
    "rows": Answer(0, ROWS),
    "links": Answer(0, LINKS),
    "fabric_state": Answer(0, "active\n"),
    "fabric_version": Answer(0, "580.95.05-1"),
    "fabric": Answer(0, FABRIC),
    "switches": Answer(0, "4"),
    "system": Answer(0, "running\n"),
    "runtime": Answer(0, json.dumps(RUNTIME)),
    "toolkit": Answer(0, "NVRM version: 580.95.05"),
    "cuda": Answer(0, "2"),
    "kernel_log": Answer(0, ""),
    "diagnostics": Answer(0, json.dumps(DIAGNOSTICS)),
    "collective": Answer(0, COLLECTIVE),
    "token": Answer(0, "2 replicas answered"),
}
WANTED = Expected(gpus=2, driver="580.95.05", vbios="96.00.CF.00.01", bus_gb_per_s=300)


def with_(**answers: Answer) -> Validation:
    return judge({**SOUND, **answers}, WANTED)


def state(found: Validation, name: str) -> str:
    [check] = [check for check in found.checks if check.name == name]
    return check.state


def test_a_sound_host_passes_every_check() -> None:
    found = judge(SOUND, WANTED)
    assert found.passed, found.failures
    assert {check.state for check in found.checks} == {"passed"}
    assert found.driver == "580.95.05"


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("driver", {"query": Answer(9, "", "NVIDIA-SMI has failed")}),
        ("driver", {"query": Answer(0, QUERY.replace("580.95.05", "580.105.08"))}),
        ("driver", {"query": Answer(0, QUERY.replace("580.95.05", "590.44.01", 1))}),
        ("driver", {"query": Answer(0, "Unable to determine the device handle\n")}),
        ("gpus", {"query": Answer(0, QUERY.splitlines()[0])}),
        ("vbios", {"query": Answer(0, QUERY.replace("96.00.CF", "96.00.D0"))}),
        ("pcie", {"query": Answer(0, QUERY.replace("16, 16", "8, 16", 1))}),
        ("fabric manager", {"fabric_version": Answer(0, "580.105.08-1")}),
        ("fabric manager", {"fabric_state": Answer(3, "inactive\n")}),
        ("fabric manager", {"fabric_version": Answer(1)}),
        ("fabric manager", {"fabric": Answer(0, FABRIC.replace("Completed", "In Progress", 1))}),
        ("container runtime", {"runtime": Answer(1, "", "connection refused")}),
        ("container runtime", {"runtime": Answer(0, json.dumps(RUNTIME).replace("true", "false"))}),
        ("container runtime", {"runtime": Answer(0, "{}")}),
        ("container toolkit", {"toolkit": Answer(1, "", "initialization error")}),
        ("cuda", {"cuda": Answer(1, "", "CUDA error 802")}),
        ("cuda", {"cuda": Answer(0, "1")}),
        ("xid", {"kernel_log": Answer(0, "NVRM: Xid (PCI:0000:1b:00): 79, pid=1, GPU has fallen")}),
        ("xid", {"kernel_log": Answer(1, "", "dmesg: read kernel buffer failed")}),
        ("row remap", {"rows": Answer(0, ROWS.replace("No, No", "Yes, No"))}),
        ("row remap", {"rows": Answer(0, ROWS.replace("0, 0", "0, 1"))}),
        ("nvlink", {"links": Answer(0, LINKS.replace("26.562 GB/s", "<inactive>", 1))}),
        ("nvlink", {"links": Answer(0, LINKS.rpartition("\t")[0])}),
        ("dcgm", {"diagnostics": Answer(0, json.dumps(DIAGNOSTICS).replace("Pass", "Fail"))}),
        ("dcgm", {"diagnostics": Answer(226, json.dumps(DIAGNOSTICS))}),
        ("dcgm", {"diagnostics": Answer(0, "{}")}),
        ("dcgm", {"diagnostics": Answer(1, "Error: unable to connect")}),
        ("collective", {"collective": Answer(0, COLLECTIVE.replace("391", "210"))}),
        ("collective", {"collective": Answer(1, "", "NCCL failure")}),
        ("token", {"token": Answer(1, "chat-0: no token within 30 s")}),
    ],
)
def test_each_fault_fails_its_own_check_and_the_host(check: str, said: dict[str, Answer]) -> None:
    found = with_(**said)
    assert state(found, check) == "failed"
    assert not found.passed
    assert found.failures.startswith(f"{check}: ") or f"; {check}: " in found.failures


@pytest.mark.parametrize(
    ("check", "name"),
    [
        ("fabric manager", "switches"),
        ("container runtime", "runtime"),
        ("container toolkit", "toolkit"),
        ("cuda", "cuda"),
        ("row remap", "rows"),
        ("nvlink", "links"),
        ("dcgm", "diagnostics"),
        ("collective", "collective"),
        ("token", "token"),
    ],
)
def test_what_a_host_has_no_tool_for_is_skipped_and_not_passed(check: str, name: str) -> None:
    found = with_(**{name: Answer(127)})
    assert state(found, check) == "skipped"
    assert found.passed


def test_a_host_without_any_tool_is_not_fit() -> None:
    assert not judge({}, WANTED).passed


@given(st.integers(1, 200))
def test_only_xids_that_programs_cause_are_forgiven(number: int) -> None:
    log = Answer(0, f"[ 1.0] NVRM: Xid (PCI:0000:1b:00): {number}, pid=7, name=python")
    assert with_(kernel_log=log).passed == (number in APPLICATION_XIDS)
    lenient = judge({**SOUND, "kernel_log": log}, replace(WANTED, ignored_xids=frozenset({number})))
    assert lenient.passed


@given(st.sampled_from(sorted(SOUND)), st.text(max_size=200), st.integers(0, 255))
def test_whatever_a_tool_prints_it_is_judged_and_never_raises(
    name: str, out: str, code: int
) -> None:
    found = with_(**{name: Answer(code, out, out)})
    assert found.passed == (not found.failures)


def test_dcgm_4_puts_its_status_into_a_summary() -> None:
    told = {
        "DCGM Diagnostic": {
            "test_categories": [
                {
                    "tests": [
                        {
                            "name": "pcie",
                            "results": [],
                            "test_summary": {"status": "Fail"},
                        }
                    ]
                }
            ]
        }
    }
    assert state(with_(diagnostics=Answer(0, json.dumps(told))), "dcgm") == "failed"


@pytest.mark.parametrize(
    ("fabric", "gpus", "switches", "wanted"),
    [
        (GpuFabric.NONE, 4, "0", False),
        (GpuFabric.NONE, 8, None, False),
        (GpuFabric.NVSWITCH, 8, None, True),
        (GpuFabric.NVSWITCH, 8, "4", True),
        (GpuFabric.NVSWITCH, 8, "0", False),
        (GpuFabric.NVSWITCH, 4, None, False),
        (GpuFabric.NVLINK5, 8, "0", True),
        (GpuFabric.EXTERNAL, 4, "0", False),
    ],
)
def test_a_fabric_manager_is_demanded_where_there_are_nvswitches_and_nowhere_else(
    fabric: GpuFabric, gpus: int, switches: str | None, *, wanted: bool
) -> None:
    bus = Answer(127) if switches is None else Answer(0, switches)
    expected = Expected(gpus=gpus, driver="580.95.05", fabric=fabric)
    without = {**SOUND, "switches": bus, "fabric_version": Answer(1), "fabric_state": Answer(3)}
    assert state(judge(without, expected), "fabric manager") == ("failed" if wanted else "skipped")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"system": Answer(1, "starting\n")}, "the system is starting"),
        ({"fabric_state": Answer(3, "activating\n")}, "the fabric manager is activating"),
        (
            {"fabric": Answer(0, FABRIC.replace("Completed", "In Progress"))},
            "the fabric of 2 GPUs is in progress",
        ),
        ({"cuda": Answer(1, "", "CUDA error 802")}, "CUDA says that the system is not ready (802)"),
    ],
)
def test_a_host_that_is_still_coming_up_is_waited_for(said: dict[str, Answer], why: str) -> None:
    assert unsettled({**SOUND, **said}, WANTED) == why


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"system": Answer(1, "degraded\n")},
        {"fabric_state": Answer(3, "failed\n"), "cuda": Answer(1, "", "CUDA error 802")},
        {"query": Answer(9), "fabric": Answer(9), "cuda": Answer(1, "", "CUDA error 100")},
        {"switches": Answer(0, "0"), "fabric_state": Answer(3, "activating")},
    ],
)
def test_what_will_not_change_any_more_is_judged_at_once(said: dict[str, Answer]) -> None:
    assert unsettled({**SOUND, **said}, WANTED) == ""


def test_what_the_kernel_log_said_before_a_change_does_not_count_against_it() -> None:
    log = Answer(0, FALLEN)
    before = tuple(xid_lines(log.out))
    assert judge({**SOUND, "kernel_log": log}, replace(WANTED, known_faults=before)).passed
    again = Answer(0, f"{FALLEN}\n{FALLEN}")
    found = judge({**SOUND, "kernel_log": again}, replace(WANTED, known_faults=before))
    assert state(found, "xid") == "failed"


def test_a_host_that_had_faults_before_is_not_fit_to_be_patched() -> None:
    assert unfit(SOUND, WANTED) == ""
    assert "79 at 0000:1b:00" in unfit({**SOUND, "kernel_log": Answer(0, FALLEN)}, WANTED)
    pending = Answer(0, ROWS.replace("No, No", "Yes, No"))
    assert "pending" in unfit({**SOUND, "rows": pending}, WANTED)
    of_a_program = Answer(0, FALLEN.replace("79", "13"))
    assert unfit({**SOUND, "kernel_log": of_a_program}, WANTED) == ""


def test_a_host_whose_driver_does_not_answer_is_patched() -> None:
    gone = {name: Answer(9) for name in ("query", "rows", "links", "fabric", "cuda")}
    assert unfit({**SOUND, **gone}, WANTED) == ""
