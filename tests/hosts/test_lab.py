"""What the tests of patching rely on: each promise of a lab's hosts."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.conftest import Until
from tests.hosts import packages
from tests.hosts.ansible_runs import module
from tests.hosts.lab import Lab
from tests.hosts.network import Network
from tests.hosts.slots import take_slot

from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import load_fleet

ONE = "gpu-001"


def install(lab: Lab, name: str, driver: str) -> "subprocess.CompletedProcess[str]":
    """The driver and its module, by apt over SSH."""
    names = [f"{package}={driver}-1" for package in ("nvidia-driver", "nvidia-kernel-dkms")]
    apt = "sudo env DEBIAN_FRONTEND=noninteractive apt-get -y --allow-downgrades"
    script = f"sudo apt-get -qq update && {apt} install {' '.join(names)}"
    return lab.ssh(name, script, check=False)


def reboot(lab: Lab, name: str) -> None:
    """By its own systemctl; returns when it answers again."""
    boots = lab[name].boots
    lab.ssh(name, "sudo systemctl reboot")
    lab[name].wait(after=boots)


def test_every_host_is_another_machine_over_ssh(lab: Lab) -> None:
    seen = {}
    for name in lab.hosts:
        said = lab.ssh(
            name, "hostname; cat /proc/sys/kernel/random/boot_id; sudo -n id -u; python3 -V"
        ).stdout.split()
        assert said[0] == name
        assert said[2:] == ["0", "Python", said[4]]
        seen[name] = said[1]
        assert said[1] == lab[name].boot_id
    assert len(set(seen.values())) == len(lab.hosts) == 8


def test_a_host_sees_no_process_and_no_file_of_the_machine(lab: Lab) -> None:
    count = lab.ssh(ONE, "ls -d /proc/[0-9]* | wc -l").stdout
    assert int(count) < 20
    assert lab.ssh(ONE, f"ls {PROJECT_ROOT}", check=False).returncode == 2
    assert lab.ssh(ONE, "ls /root", check=False).returncode == 2


def test_a_host_key_that_changed_is_refused(one: Lab) -> None:
    one.new_host_key(ONE)
    refused = one.ssh(ONE, "true", check=False)
    assert refused.returncode == 255
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in refused.stderr
    assert one.ssh("gpu-002", "true").returncode == 0


def test_a_reboot_ends_every_process_and_gives_a_new_boot_id(one: Lab) -> None:
    before = one[ONE].boot_id
    one.ssh(ONE, "setsid sleep 3600 > /dev/null 2>&1 < /dev/null & pgrep -x sleep > /dev/null")
    one.ssh(ONE, "echo kept > kept; sudo sh -c 'echo gone > /run/gone'")
    reboot(one, ONE)
    script = "cat /proc/sys/kernel/random/boot_id kept; pgrep -x sleep; ls /run/gone"
    said = one.ssh(ONE, script, check=False).stdout.split()
    assert said == [one[ONE].boot_id, "kept"]
    assert one[ONE].boot_id != before


def test_ansible_reboots_a_host(one: Lab) -> None:
    before = one[ONE].boot_id
    result = module(one, ONE, "ansible.builtin.reboot", reboot_timeout=60)
    assert result["rebooted"]
    assert one[ONE].boot_id != before


def test_a_new_driver_runs_after_the_reboot_and_not_before(one: Lab) -> None:
    result = module(
        one,
        ONE,
        "ansible.builtin.apt",
        name=[f"nvidia-driver={packages.GOOD}*", f"nvidia-kernel-dkms={packages.GOOD}*"],
        update_cache=True,
    )
    assert result["changed"]
    asked = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    mismatch = one.ssh(ONE, *asked, check=False)
    assert mismatch.returncode == 18
    assert "version mismatch" in mismatch.stdout
    assert one[ONE].driver() == packages.CURRENT
    reboot(one, ONE)
    assert set(one.ssh(ONE, *asked).stdout.split()) == {packages.GOOD}


def test_a_driver_that_does_not_build_fails_to_install_and_goes_back(one: Lab) -> None:
    failed = install(one, ONE, packages.FAILS_TO_INSTALL)
    assert failed.returncode == 100
    assert "Bad return status for module build" in failed.stderr + failed.stdout
    assert "nvidia-kernel-dkms" in one.ssh(ONE, "sudo dpkg --audit").stdout
    back = install(one, ONE, packages.CURRENT)
    assert back.returncode == 0, back.stdout + back.stderr
    reboot(one, ONE)
    assert one[ONE].driver() == packages.CURRENT
    assert one.ssh(ONE, "sudo dpkg --audit").stdout == ""


def test_a_driver_that_breaks_works_until_the_reboot(one: Lab) -> None:
    assert install(one, ONE, packages.BREAKS_AFTER_REBOOT).returncode == 0
    one.ssh(ONE, "sudo systemctl stop nvidia-persistenced nvidia-fabricmanager nvidia-dcgm")
    one.ssh(ONE, "sudo rmmod nvidia_drm nvidia_modeset nvidia_uvm nvidia")
    one.ssh(ONE, "sudo modprobe nvidia && nvidia-smi")
    reboot(one, ONE)
    assert one.ssh(ONE, "nvidia-smi", check=False).returncode == 9
    assert "rm_init_adapter failed" in one.ssh(ONE, "sudo dmesg").stdout
    units = one.ssh(ONE, "systemctl is-active nvidia-fabricmanager", check=False)
    assert (units.returncode, units.stdout) == (3, "failed\n")


def test_apt_refuses_a_repository_that_somebody_else_signed(one: Lab, tmp_path: Path) -> None:
    packages.make(tmp_path)
    assert one.ssh(ONE, "sudo apt-get -qq update").returncode == 0
    one.serve(tmp_path)
    said = one.ssh(ONE, "sudo apt-get -qq -o APT::Update::Error-Mode=any update", check=False)
    assert said.returncode == 100
    assert "not signed" in said.stderr or "couldn't be verified" in said.stderr


def test_modules_in_use_are_not_unloaded(lab: Lab) -> None:
    said = lab.ssh("gpu-002", "sudo rmmod nvidia", check=False)
    assert said.returncode == 1
    assert "in use by: nvidia_uvm nvidia_modeset" in said.stderr


def test_secure_boot_refuses_a_module_whose_key_is_not_enrolled(one: Lab) -> None:
    one[ONE].set_fact("secure_boot", "1")
    one[ONE].set_fact("key_enrolled", "0")
    reboot(one, ONE)
    assert one.ssh(ONE, "mokutil --sb-state").stdout == "SecureBoot enabled\n"
    loading = one.ssh(ONE, "sudo modprobe nvidia", check=False)
    assert (loading.returncode, one[ONE].driver()) == (1, "")
    assert "Key was rejected by service" in loading.stderr
    one[ONE].set_fact("key_enrolled", "1")
    assert one.ssh(ONE, "sudo modprobe nvidia").returncode == 0


def test_a_new_kernel_runs_after_the_reboot(one: Lab) -> None:
    image = f"linux-image-{packages.KERNELS[1]}"
    one.ssh(ONE, f"sudo apt-get -qq update && sudo apt-get -qq -y install {image}")
    assert one.ssh(ONE, "uname -r").stdout.strip() == packages.KERNELS[0]
    reboot(one, ONE)
    assert one.ssh(ONE, "uname -r").stdout.strip() == packages.KERNELS[1]


def test_cuda_initialises_with_the_driver_that_runs(one: Lab, until: Until) -> None:
    program = "import ctypes; print(ctypes.CDLL('libcuda.so.1').cuInit(0))"
    if one.ssh(ONE, "ls /usr/lib/*/libcuda.so.1", check=False).returncode:
        pytest.skip("this machine has no C compiler, and so its hosts have no libcuda")
    # 802 while the fabric manager starts.
    until(lambda: one.ssh(ONE, f'python3 -c "{program}"').stdout == "0\n", 60)
    install(one, ONE, packages.GOOD)
    assert one.ssh(ONE, f'python3 -c "{program}"').stdout == "803\n"


def test_security_updates_come_from_their_own_archive(lab: Lab) -> None:
    lab.ssh("gpu-002", "sudo apt-get -qq update")
    said = lab.ssh("gpu-002", "apt-get -s -o Debug::NoLocking=true dist-upgrade").stdout
    (line,) = [line for line in said.splitlines() if line.startswith("Inst libgpustub1")]
    new = f"({packages.SECURITY[1]} Debian-Security:12/oldstable-security"
    assert f"[{packages.SECURITY[0]}] {new}" in line


def test_a_host_that_does_not_return_stays_off(one: Lab) -> None:
    one[ONE].fault("does-not-return")
    one.ssh(ONE, "sudo systemctl reboot")
    one[ONE].wait_until_off()
    assert one.ssh(ONE, "true", check=False).returncode == 255
    one[ONE].mend()
    one[ONE].power_on()
    one[ONE].wait()


def test_a_cut_cable_ends_the_connection_and_nothing_else(one: Lab) -> None:
    boots = one[ONE].boots
    one[ONE].cut()
    assert one.ssh(ONE, "true", check=False).returncode == 255
    one[ONE].plug()
    one.ssh(ONE, "true")
    assert one[ONE].boots == boots


def test_an_installation_can_be_held_and_cut_in_its_middle(one: Lab, until: Until) -> None:
    one[ONE].fault("hold-install")
    said: list[subprocess.CompletedProcess[str]] = []
    runs = threading.Thread(target=lambda: said.append(install(one, ONE, packages.GOOD)))
    runs.start()
    until(one[ONE].path("/run/gpu-stub/installing").exists)
    one[ONE].reboot()
    runs.join()
    assert said[0].returncode != 0
    assert "nvidia-kernel-dkms" in one.ssh(ONE, "sudo dpkg --audit").stdout
    one[ONE].mend()
    one.ssh(ONE, "sudo dpkg --configure --pending")
    assert one.ssh(ONE, "sudo dpkg --audit").stdout == ""


def test_nothing_is_installed_on_a_full_disk(one: Lab) -> None:
    one[ONE].fill()
    failed = install(one, ONE, packages.GOOD)
    assert failed.returncode == 100
    assert "No space left on device" in failed.stdout + failed.stderr
    one[ONE].empty()
    assert install(one, ONE, packages.GOOD).returncode == 0


def test_faults_of_gpus_are_told_by_the_tools(one: Lab) -> None:
    assert "Xid" not in one.ssh(ONE, "sudo dmesg").stdout
    one[ONE].log_xid(79)
    for tool in ("dmesg", "journalctl --dmesg --boot --no-pager"):
        assert "NVRM: Xid (PCI:0000:1b:00): 79, " in one.ssh(ONE, f"sudo {tool}").stdout
    told = json.loads(one.ssh(ONE, "dcgmi diag -r 1 --json").stdout)
    assert "Fail" not in json.dumps(told)
    one[ONE].fault("dcgm", "PCIe replays")
    failed = one.ssh(ONE, "dcgmi diag -r 1 --json", check=False)
    assert failed.returncode != 0
    assert "PCIe replays" in failed.stdout
    one[ONE].fault("row-remap")
    rows = one.ssh(ONE, "nvidia-smi --query-remapped-rows=remapped_rows.pending --format=csv")
    assert rows.stdout.split() == ["remapped_rows.pending", "Yes", *["No"] * 7]


def test_a_process_that_has_a_gpu_open_is_one_of_the_host(one: Lab, until: Until) -> None:
    holder = one[ONE].hold_gpu()
    try:
        until(lambda: open_gpus(one) == 1)
    finally:
        holder.kill()
        holder.wait()
    until(lambda: open_gpus(one) == 0)


def open_gpus(lab: Lab) -> int:
    """Processes that have the first GPU open."""
    script = "ls -l /proc/[0-9]*/fd 2> /dev/null | grep -c ' /dev/nvidia0$'"
    return int(lab[ONE].run("sh", "-c", script, check=False).stdout)


def test_the_fleet_file_is_one_and_names_the_hosts(lab: Lab, tmp_path: Path) -> None:
    file = lab.write_fleet(tmp_path / "lab")
    fleet = load_fleet(file)
    group = fleet.node_groups["gpu"]
    assert group.nodes == 8
    assert group.ssh is not None
    assert group.ssh.addresses == {name: host.address for name, host in lab.hosts.items()}
    assert (file.parent / group.ssh.known_hosts).is_file()
    assert group.bmc is not None
    assert group.bmc.certificate_authority is not None
    assert (file.parent / group.bmc.certificate_authority).is_file()


def test_two_labs_do_not_meet(lab: Lab) -> None:
    with Lab(1) as other:
        assert other.network.bridge != lab.network.bridge
        assert other.ssh(ONE, "hostname -i").stdout.split() == [other[ONE].address]
        assert other[ONE].boot_id != lab[ONE].boot_id
    assert lab.ssh(ONE, "hostname").stdout == f"{ONE}\n"


def test_what_a_killed_lab_left_is_removed_by_the_next(tmp_path: Path, until: Until) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tests.hosts.lab", str(tmp_path / "lab"), "1"],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = dict(line.strip().split("=", 1) for line in iter(process.stdout.readline, "\n"))
    folder = Path(said["SSH_AUTH_SOCK"]).parent
    network = Network(int(folder.name))
    process.send_signal(signal.SIGKILL)
    process.wait()
    mine = str(folder)
    # Its hosts end with it; ssh-agent, which is setgid, and what has no process, stay.
    until(lambda: not [command for command in _running(mine) if "boot.sh" in command])
    assert network.namespace_file(1).exists()
    with take_slot():
        pass
    until(lambda: not _running(mine))
    assert not network.namespace_file(1).exists()
    assert mine not in Path("/proc/self/mountinfo").read_text()
    assert network.bridge not in {file.name for file in Path("/sys/class/net").iterdir()}


def _running(folder: str) -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if folder in command and "pytest" not in command:
            found.append(command)
    return found
