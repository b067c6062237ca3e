"""nvidia-smi, reading what the host's driver and GPUs are."""

from typing import Final
from xml.etree import ElementTree

from tests.hosts.stubs import state, units
from tests.hosts.stubs.output import say

_NO_DRIVER: Final = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that "
    "the latest NVIDIA driver is installed and running.\n"
)
_NO_DRIVER_CODE: Final = 9
_MISMATCH_CODE: Final = 18
_FALLEN: Final = 79
"""The XID of a GPU that has fallen off the bus."""
_LINKS: Final = 18
"""NVLinks of an H100."""


def driver() -> str:
    """The version of the running driver.

    Raises:
        SystemExit: with nvidia-smi's exit code, where there is none or it is not the library's.
    """
    version, library = state.loaded("nvidia"), state.installed("nvidia-driver")
    if state.fault("smi") is not None or version is None or library is None:
        say(_NO_DRIVER)
        raise SystemExit(_NO_DRIVER_CODE)
    if library.version != version:
        say("Failed to initialize NVML: Driver/library version mismatch")
        say(f"NVML library version: {'.'.join(library.version.split('.')[:2])}")
        raise SystemExit(_MISMATCH_CODE)
    return version


def facts(index: int) -> dict[str, str]:
    """Everything that may be asked of one GPU, by nvidia-smi's names for it."""
    fabric = "Completed" if units.active("nvidia-fabricmanager") == "active" else "In Progress"
    if state.setting("nvswitches") == "0":
        fabric = "N/A"
    ecc, width = state.fault("ecc"), state.fault("pcie-width")
    rows = state.fault("row-remap") is not None and index == 0
    return {
        "index": str(index),
        "count": state.setting("gpus"),
        "name": state.setting("gpu_name"),
        "uuid": uuid(index),
        "serial": f"16503230{index:05d}",
        "driver_version": driver(),
        "vbios_version": state.setting("vbios"),
        "pci.bus_id": f"00000000:{bus(index)}:00.0",
        "ecc.mode.current": "Enabled",
        "ecc.errors.corrected.volatile.total": "0",
        "ecc.errors.uncorrected.volatile.total": (ecc or "1") if ecc is not None else "0",
        "ecc.errors.corrected.aggregate.total": "0",
        "ecc.errors.uncorrected.aggregate.total": (ecc or "1") if ecc is not None else "0",
        "pcie.link.gen.current": "5",
        "pcie.link.gen.max": "5",
        "pcie.link.width.current": (width or "8") if width is not None and index == 0 else "16",
        "pcie.link.width.max": "16",
        "memory.total": "81559 MiB",
        "memory.used": "0 MiB",
        "memory.free": "81559 MiB",
        "temperature.gpu": "31",
        "power.draw": "69.52 W",
        "utilization.gpu": "0 %",
        "persistence_mode": "Enabled"
        if units.active("nvidia-persistenced") == "active"
        else "Disabled",
        "compute_mode": "Default",
        "mig.mode.current": "Disabled",
        "fabric.state": fabric,
        "fabric.status": "Success" if fabric == "Completed" else "N/A",
        "gpu_name": state.setting("gpu_name"),
        "gpu_uuid": uuid(index),
        "gpu_bus_id": f"00000000:{bus(index)}:00.0",
        "remapped_rows.correctable": "0",
        "remapped_rows.uncorrectable": "1" if rows else "0",
        "remapped_rows.pending": "Yes" if rows else "No",
        "remapped_rows.failure": "Yes" if rows and state.fault("row-remap") == "failure" else "No",
    }


def uuid(index: int) -> str:
    """A GPU's name in the world."""
    return f"GPU-0000000{index}-5c52-4a1b-9d0e-0123456789ab"


def bus(index: int) -> str:
    """Its PCI bus, hexadecimal."""
    return f"{0x1B + 16 * index:02x}".upper()


def nvidia_smi(arguments: list[str]) -> int:
    """As far as the roles use it."""
    options = _options(arguments)
    driver()
    chosen = range(int(state.setting("gpus")))
    given = options.get("-i") or options.get("--id", "")
    if given.isdigit():
        chosen = range(int(given), int(given) + 1)
    form = options.get("--format", "")
    if query := options.get("--query-gpu") or options.get("--query-remapped-rows"):
        return _query(query.split(","), form, chosen)
    if query := options.get("--query-compute-apps"):
        return _processes(query, form)
    if "nvlink" in arguments:
        _nvlink(chosen)
    elif {"-L", "--list-gpus"} & set(options):
        for index in chosen:
            say(f"GPU {index}: {state.setting('gpu_name')} (UUID: {uuid(index)})")
    elif {"-q", "--query"} & set(options):
        _everything(chosen, xml=bool({"-x", "--xml-format"} & set(options)))
    elif {"-pm", "--persistence-mode", "-r", "--gpu-reset"} & set(options):
        say("All done.")
    else:
        _table(chosen)
    return 0


def _processes(query: str, form: str) -> int:
    if "noheader" not in form:
        say(query.replace(",", ", "))
    if told := state.fault("gpu-process"):
        say(told)
    return 0


def _options(arguments: list[str]) -> dict[str, str]:
    found, last = {}, ""
    for argument in arguments:
        if argument.startswith("-"):
            last, _, value = argument.partition("=")
            found[last] = value
        elif last:
            found[last] = argument
    return found


def _query(fields: list[str], form: str, chosen: range) -> int:
    fields = [field.strip() for field in fields]
    known = facts(0)
    if unknown := [field for field in fields if field not in known]:
        say(f'Field "{unknown[0]}" is not a valid field to query.\n')
        return 2
    if "noheader" not in form:
        say(", ".join(fields))
    for index in chosen:
        own = facts(index)
        values = [own[field] for field in fields]
        if "nounits" in form:
            values = [value.removesuffix(" MiB").removesuffix(" W") for value in values]
        say(", ".join(values))
    return 0


def _nvlink(chosen: range) -> None:
    down = state.fault("nvlink")
    for index in chosen:
        say(f"GPU {index}: {state.setting('gpu_name')} (UUID: {uuid(index)})")
        for link in range(_LINKS):
            is_down = down is not None and index == 0 and link == 0
            say(f"\t Link {link}: {'<inactive>' if is_down else '26.562 GB/s'}")


def _everything(chosen: range, *, xml: bool) -> None:
    version = driver()
    if xml:
        root = ElementTree.Element("nvidia_smi_log")
        ElementTree.SubElement(root, "driver_version").text = version
        ElementTree.SubElement(root, "attached_gpus").text = str(len(chosen))
        for index in chosen:
            _gpu_element(root, facts(index))
        ElementTree.indent(root)
        say('<?xml version="1.0" ?>\n' + ElementTree.tostring(root, encoding="unicode"))
        return
    say(f"\n==============NVSMI LOG==============\n\nDriver Version : {version}")
    say(f"Attached GPUs  : {len(chosen)}")
    for index in chosen:
        own = facts(index)
        say(f"GPU {own['pci.bus_id']}")
        for name, value in own.items():
            say(f"    {name:<42}: {value}")
        say("    Fabric")
        say(f"        {'State':<38}: {own['fabric.state']}")
        say(f"        {'Status':<38}: {own['fabric.status']}")


def _gpu_element(root: ElementTree.Element, own: dict[str, str]) -> None:
    gpu = ElementTree.SubElement(root, "gpu", id=own["pci.bus_id"])
    plain = {
        "product_name": own["name"],
        "uuid": own["uuid"],
        "vbios_version": own["vbios_version"],
        "pci/pci_gpu_link_info/pcie_gen/current_link_gen": own["pcie.link.gen.current"],
        "pci/pci_gpu_link_info/pcie_gen/max_link_gen": own["pcie.link.gen.max"],
        "pci/pci_gpu_link_info/link_widths/current_link_width": (
            own["pcie.link.width.current"] + "x"
        ),
        "pci/pci_gpu_link_info/link_widths/max_link_width": own["pcie.link.width.max"] + "x",
        "ecc_mode/current_ecc": own["ecc.mode.current"],
        "remapped_rows/remapped_row_unc": own["remapped_rows.uncorrectable"],
        "remapped_rows/remapped_row_pending": own["remapped_rows.pending"],
        "remapped_rows/remapped_row_failure": own["remapped_rows.failure"],
        "fabric/state": own["fabric.state"],
        "fabric/status": own["fabric.status"],
    }
    for path, value in plain.items():
        at = gpu
        for part in path.split("/"):
            found = at.find(part)
            at = found if found is not None else ElementTree.SubElement(at, part)
        at.text = value


def _table(chosen: range) -> None:
    version = driver()
    say(f"| NVIDIA-SMI {version}   Driver Version: {version}   CUDA Version: 13.0 |")
    for index in chosen:
        say(f"|   {index}  {state.setting('gpu_name')}   On  | {facts(index)['pci.bus_id']} |")


def all_reduce_perf(arguments: list[str]) -> int:
    """nccl-tests' last lines; the fault `collective` is the bandwidth of a bad link, GB/s."""
    driver()
    count = _options(arguments).get("-g", "1") or "1"
    told = state.fault("collective")
    say(f"# nThread 1 nGpus {count} minBytes 1073741824 maxBytes 1073741824")
    say("# Out of bounds values : 0 OK")
    say(f"# Avg bus bandwidth    : {480.1 if told is None else told or '41.7'}")
    return 0
