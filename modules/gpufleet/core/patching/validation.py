"""Whether a host's GPUs are fit to serve, judged by what its own tools print.

A check that a host has no tool for is skipped, and says so; one whose tool prints what nobody
understands has failed.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from gpufleet.core.patching.diagnostics import results_of
from gpufleet.core.patching.fabric import fabric_states, runs_fabric_manager
from gpufleet.core.patching.xids import named, xid_lines
from gpufleet.spec.hardware import GpuFabric

PASSED: Final = "passed"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"
QUERY: Final = (
    "index",
    "pci.bus_id",
    "driver_version",
    "vbios_version",
    "pcie.link.width.current",
    "pcie.link.width.max",
)
"""Fields of `nvidia-smi --query-gpu`, in the order in which they are asked for."""
ROWS: Final = (
    "gpu_bus_id",
    "remapped_rows.pending",
    "remapped_rows.failure",
)
"""Fields of `nvidia-smi --query-remapped-rows`."""
_LINK: Final = re.compile(r"^\s*Link \d+: (.+)$", re.MULTILINE)
_BUS_BANDWIDTH: Final = re.compile(r"# Avg bus bandwidth\s*:\s*([0-9.]+)")
_REGISTERED: Final = "Completed"
_NOT_THERE: Final = 127
"""What a shell, and our module, give for a program that is not on the host."""
_SHOWN: Final = 160
_UNKNOWN: Final = frozenset({"[N/A]", "N/A", "[Not Supported]", ""})


@dataclass(frozen=True)
class Check:
    """One check, with what was seen."""

    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class Expected:
    """What a host is to have."""

    gpus: int
    driver: str
    vbios: str = ""
    bus_gb_per_s: float = 0
    """Least bus bandwidth of an all-reduce over the host's GPUs, GB/s; 0 asks for none."""
    ignored_xids: frozenset[int] = frozenset()
    fabric: GpuFabric = GpuFabric.NONE
    """Of its GPU type."""
    known_faults: tuple[str, ...] = ()
    """Lines of the kernel log that were there before a change, without a restart since."""


@dataclass(frozen=True)
class Answer:
    """What a command said; `code` is 127 where the host does not have it."""

    code: int = _NOT_THERE
    out: str = ""
    error: str = ""

    @property
    def why(self) -> str:
        """The last line of what it said, for an error."""
        lines = (self.error.strip() or self.out.strip()).splitlines()
        return f"{lines[-1].strip()[:_SHOWN] if lines else 'it said nothing'} (exit {self.code})"


@dataclass(frozen=True)
class Validation:
    """Every check of a host."""

    checks: tuple[Check, ...]
    driver: str = ""
    """Version of the driver that answers; empty where none does."""
    failures: str = field(init=False)
    """One sentence; empty where nothing failed."""

    def __post_init__(self) -> None:
        failed = [f"{check.name}: {check.detail}" for check in self.checks if check.state == FAILED]
        object.__setattr__(self, "failures", "; ".join(failed))

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def as_facts(self) -> dict[str, Any]:
        """For Ansible."""
        return {
            "passed": self.passed,
            "failures": self.failures,
            "driver": self.driver,
            "checks": [asdict(check) for check in self.checks],
        }


def judge(said: Mapping[str, Answer], expected: Expected) -> Validation:
    """Judge a host.

    Args:
        said: what its commands answered: `query`, `rows`, `links`, `fabric_state`,
            `fabric_version`, `fabric`, `switches`, `cuda`, `kernel_log`, `runtime`, `toolkit`, and
            `diagnostics`, `collective`, `token` where they were asked for.
        expected: what it is to have.
    """
    rows = _table(said.get("query", Answer()), len(QUERY))
    drivers = sorted({row[QUERY.index("driver_version")] for row in rows})
    checks = [
        *_gpus(said.get("query", Answer()), rows, drivers, expected),
        _fabric(said, drivers, expected),
        _cuda(said.get("cuda", Answer()), expected, answers=bool(rows)),
        _xids(said.get("kernel_log", Answer()), expected),
        _remapped(said.get("rows", Answer())),
        _pcie(rows),
        _links(said.get("links", Answer()), expected),
        _runtime(said.get("runtime", Answer())),
        _toolkit(said.get("toolkit", Answer())),
        _diagnostics(said.get("diagnostics")),
        _collective(said.get("collective"), expected),
        _token(said.get("token")),
    ]
    return Validation(tuple(checks), drivers[0] if len(drivers) == 1 else "")


def _gpus(
    answer: Answer, rows: list[list[str]], drivers: list[str], expected: Expected
) -> Iterator[Check]:
    if not rows:
        yield Check("driver", FAILED, f"nvidia-smi does not answer: {answer.why}")
        return
    seen = " and ".join(drivers)
    good = drivers == [expected.driver]
    yield Check("driver", PASSED if good else FAILED, f"{seen}, wanted {expected.driver}")
    state = PASSED if len(rows) == expected.gpus else FAILED
    yield Check("gpus", state, f"{len(rows)} of {expected.gpus}")
    if expected.vbios:
        found = sorted({row[QUERY.index("vbios_version")] for row in rows})
        state = PASSED if found == [expected.vbios] else FAILED
        yield Check("vbios", state, f"{' and '.join(found)}, wanted {expected.vbios}")


def unfit(said: Mapping[str, Answer], expected: Expected) -> str:
    """Why a host's hardware was not fit before anything was done on it; empty where it was.

    A driver that does not answer is none of it: a patch may be what mends that.
    """
    faults = named(xid_lines(said.get("kernel_log", Answer()).out), expected.ignored_xids)
    remap = _remapped(said.get("rows", Answer()))
    told = [f"xid since the boot: {faults}"] if faults else []
    if remap.state == FAILED:
        told.append(f"{remap.name}: {remap.detail}")
    return "; ".join(told)


def has_fabric_manager(said: Mapping[str, Answer], expected: Expected) -> bool:
    """Whether a host has to run one, by its own PCI bus where that can be read."""
    switches = said.get("switches", Answer())
    seen = int(switches.out) if not switches.code and switches.out.strip().isdecimal() else None
    return runs_fabric_manager(expected.fabric, expected.gpus, seen)


def _fabric(said: Mapping[str, Answer], drivers: list[str], expected: Expected) -> Check:
    """Its version has to be the driver's, else the links between GPUs do not come up."""
    name = "fabric manager"
    if not has_fabric_manager(said, expected):
        return Check(name, SKIPPED, "the host has no NVSwitch")
    version = said.get("fabric_version", Answer())
    if version.code:
        return Check(name, FAILED, "not installed, and the host has NVSwitches")
    # A package's version may carry a revision: 580.95.05-1.
    found = version.out.strip().split(":")[-1].split("-")[0]
    if drivers and found != drivers[0]:
        return Check(name, FAILED, f"{found}, and the driver is {drivers[0]}")
    state = said.get("fabric_state", Answer())
    if state.out.strip() != "active":
        return Check(name, FAILED, f"{found}, {state.out.strip() or state.why}")
    bad = [each for each in fabric_states(said.get("fabric", Answer()).out) if each != _REGISTERED]
    if bad:
        return Check(name, FAILED, f"{found}, the fabric of {len(bad)} GPUs is {bad[0].lower()}")
    return Check(name, PASSED, f"{found}, active")


def _cuda(answer: Answer, expected: Expected, *, answers: bool) -> Check:
    if answer.code == _NOT_THERE:
        state = SKIPPED if answers else FAILED
        return Check("cuda", state, "there is no libcuda.so.1; nvidia-smi was asked instead")
    if answer.code:
        return Check("cuda", FAILED, f"it does not initialise: {answer.why}")
    seen = answer.out.strip()
    state = PASSED if seen == str(expected.gpus) else FAILED
    return Check("cuda", state, f"{seen} of {expected.gpus} GPUs")


def _xids(answer: Answer, expected: Expected) -> Check:
    if answer.code:
        return Check("xid", FAILED, f"the kernel log cannot be read: {answer.why}")
    new = Counter(xid_lines(answer.out)) - Counter(expected.known_faults)
    if bad := named(new, expected.ignored_xids):
        since = "since it was begun" if expected.known_faults else "since the boot"
        return Check("xid", FAILED, f"{since}: {bad}")
    count = len(xid_lines(answer.out, of_applications=True))
    return Check("xid", PASSED, f"none since the boot ({count} of applications)")


def _remapped(answer: Answer) -> Check:
    """A failed remap is a broken GPU; a pending one asks for a reset before it serves."""
    name = "row remap"
    if answer.code:
        return Check(name, SKIPPED, f"not told: {answer.why}")
    rows = _table(answer, len(ROWS))
    if not rows:
        return Check(name, SKIPPED, "no GPU tells")
    bad = [
        f"{row[0]} {word}"
        for row in rows
        for word, value in zip(("pending", "failed"), row[1:], strict=True)
        if value not in _UNKNOWN and value.lower() not in {"0", "no"}
    ]
    return Check(name, FAILED if bad else PASSED, ", ".join(bad) or f"none of {len(rows)} GPUs")


def _pcie(rows: list[list[str]]) -> Check:
    """The width alone: an idle link lowers its speed to save power, never its width."""
    if not rows:
        return Check("pcie", SKIPPED, "nvidia-smi does not answer")
    bus, now, most = (
        QUERY.index(field)
        for field in ("pci.bus_id", "pcie.link.width.current", "pcie.link.width.max")
    )
    told = [row for row in rows if row[now] not in _UNKNOWN and row[most] not in _UNKNOWN]
    bad = [f"{row[bus]} has x{row[now]} of x{row[most]}" for row in told if row[now] != row[most]]
    if bad or told:
        detail = ", ".join(bad) or f"all of {len(told)} at full width"
        return Check("pcie", FAILED if bad else PASSED, detail)
    return Check("pcie", SKIPPED, "no GPU tells")


def _links(answer: Answer, expected: Expected) -> Check:
    name = "nvlink"
    if answer.code:
        return Check(name, SKIPPED, f"not told: {answer.why}")
    links = _LINK.findall(answer.out)
    if not links:
        return Check(name, SKIPPED, "the GPUs have none")
    down = sum("inactive" in link.lower() or "down" in link.lower() for link in links)
    if down:
        return Check(name, FAILED, f"{down} of {len(links)} links are down")
    if len(links) % expected.gpus:
        return Check(name, FAILED, f"{len(links)} links on {expected.gpus} GPUs: some are lost")
    return Check(name, PASSED, f"{len(links)} links are up")


def _runtime(answer: Answer) -> Check:
    """Whether the container runtime takes containers, by what it says to a kubelet."""
    name = "container runtime"
    if answer.code == _NOT_THERE:
        return Check(name, SKIPPED, "there is no crictl")
    try:
        told = json.loads(answer.out)
        conditions = {each["type"]: each for each in told["status"]["conditions"]}
    except (ValueError, KeyError, TypeError):
        return Check(name, FAILED, f"crictl info does not answer: {answer.why}")
    bad = [
        f"{kind}: {conditions.get(kind, {}).get('message') or 'no'}"
        for kind in ("RuntimeReady", "NetworkReady")
        if conditions.get(kind, {}).get("status") is not True
    ]
    return Check(name, FAILED if bad else PASSED, ", ".join(bad) or "ready")


def _toolkit(answer: Answer) -> Check:
    """Whether containers can be given GPUs: the toolkit finds driver and devices."""
    name = "container toolkit"
    if answer.code == _NOT_THERE:
        return Check(name, SKIPPED, "there is no nvidia-container-cli")
    return Check(name, FAILED if answer.code else PASSED, answer.why if answer.code else "ready")


def _diagnostics(answer: Answer | None) -> Check:
    name = "dcgm"
    if answer is None:
        return Check(name, SKIPPED, "not asked for")
    if answer.code == _NOT_THERE:
        return Check(name, SKIPPED, "there is no dcgmi")
    try:
        told = json.loads(answer.out[answer.out.index("{") :])
    except ValueError:
        return Check(name, FAILED, f"dcgmi diag does not answer: {answer.why}")
    results = list(results_of(told))
    failed = sorted({test for test, status in results if status.startswith("fail")})
    warned = sorted({test for test, status in results if status.startswith("warn")})
    if failed or answer.code:
        return Check(name, FAILED, f"failed: {', '.join(failed) or answer.why}")
    if not results:
        return Check(name, FAILED, "dcgmi diag tells of no test")
    note = f", with warnings: {', '.join(warned)}" if warned else ""
    return Check(name, PASSED, f"{len({test for test, _ in results})} tests{note}")


def _collective(answer: Answer | None, expected: Expected) -> Check:
    name = "collective"
    if answer is None:
        return Check(name, SKIPPED, "not asked for")
    if answer.code == _NOT_THERE:
        return Check(name, SKIPPED, "there is no all_reduce_perf (nccl-tests)")
    found = _BUS_BANDWIDTH.search(answer.out)
    if answer.code or not found:
        return Check(name, FAILED, f"all_reduce_perf: {answer.why}")
    speed = float(found[1])
    good = speed >= expected.bus_gb_per_s
    wanted = f", wanted {expected.bus_gb_per_s:g}" if expected.bus_gb_per_s else ""
    return Check(name, PASSED if good else FAILED, f"{speed:g} GB/s over the bus{wanted}")


def _token(answer: Answer | None) -> Check:
    name = "token"
    if answer is None:
        return Check(name, SKIPPED, "not asked for")
    if answer.code == _NOT_THERE:
        return Check(name, SKIPPED, "no replica on this node serves")
    return Check(name, FAILED if answer.code else PASSED, answer.out or answer.why)


def _table(answer: Answer, columns: int) -> list[list[str]]:
    """Lines of comma-separated values with that many columns; none where a line is another."""
    if answer.code:
        return []
    rows = [
        [cell.strip() for cell in line.split(",")]
        for line in answer.out.splitlines()
        if line.strip()
    ]
    return rows if all(len(row) == columns for row in rows) else []
