"""Stub packages with the names of NVIDIA's, in a signed apt repository.

Versions are as NVIDIA's repository has them, with Debian's revision: `580.95.05-1`. Where only
the version is known, apt finds it by a pattern: `nvidia-driver=580.95.05*`.
"""

import gzip
import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Final

from tests.hosts.cached import made_once, sources

CURRENT: Final = "580.95.05"
GOOD: Final = "580.105.08"
FAILS_TO_INSTALL: Final = "580.126.09"
"""Its module does not build: the post-install of `nvidia-kernel-dkms` fails."""
BREAKS_AFTER_REBOOT: Final = "590.44.01"
"""Installs and loads; at the next boot the module finds no device."""
DRIVERS: Final = (CURRENT, GOOD, FAILS_TO_INSTALL, BREAKS_AFTER_REBOOT)
PRECOMPILED: Final = "linux-modules-nvidia"
"""The modules in place of `nvidia-kernel-dkms`, with the vendor's signature."""
DCGM: Final = ("1:4.4.1-1", "1:4.4.2-1")
TOOLKIT: Final = ("1.17.8-1", "1.18.0-1")
CONTAINERD: Final = ("1.7.24-1~deb12u1", "1.7.28-1~deb12u1")
KERNELS: Final = ("6.1.0-40-amd64", "6.1.0-41-amd64", "6.1.0-42-amd64")
"""For the last one no driver is built: its hosts boot without their GPUs."""
SECURITY: Final = ("1.0-1", "1.0-1+deb12u1")
"""Of `libgpustub1`, which has a security update."""
KEYRING: Final = "gpu-stub.gpg"
_SECURITY_ARCHIVE: Final = (
    "Origin: Debian\nLabel: Debian-Security\nSuite: oldstable-security\nVersion: 12\n"
    "Codename: bookworm-security\n"
)
_HOLD: Final = """\
# A test holds the installation here, to break something in the middle of it.
mkdir -p /run/gpu-stub
touch /run/gpu-stub/installing
while [ -e /var/lib/gpu-stub/faults/hold-install ]; do sleep 0.1; done
rm -f /run/gpu-stub/installing
"""


@dataclass(frozen=True)
class Stub:
    """One version of a package."""

    name: str
    version: str
    depends: str = ""
    conflicts: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    """Programs by path: their whole text."""
    scripts: Mapping[str, str] = field(default_factory=dict)
    """Maintainer scripts by name, without their first lines."""
    breaks_at_boot: bool = False

    @property
    def upstream(self) -> str:
        """The version without epoch and revision."""
        return self.version.rpartition(":")[2].rpartition("-")[0]


def _driver(version: str) -> list[Stub]:
    debian = f"{version}-1"
    build = f'echo "Building module: nvidia {version} for $(uname -r)"\n' + _HOLD
    if version == FAILS_TO_INSTALL:
        build += (
            'echo "Error! Bad return status for module build on kernel: $(uname -r) (x86_64)" >&2\n'
            f'echo "Consult /var/lib/dkms/nvidia/{version}/build/make.log" >&2\nexit 10\n'
        )
    build += f"mkdir -p /var/lib/gpu-stub/built\ntouch /var/lib/gpu-stub/built/{version}\n"
    manager = f'#!/bin/sh\necho "Fabric Manager version is : {version}"\n'
    return [
        Stub(
            "nvidia-driver",
            debian,
            f"nvidia-kernel-dkms (= {debian}) | {PRECOMPILED} (= {debian})",
        ),
        Stub(
            "nvidia-kernel-dkms",
            debian,
            scripts={"postinst": build, "prerm": f"rm -f /var/lib/gpu-stub/built/{version}\n"},
            breaks_at_boot=version == BREAKS_AFTER_REBOOT,
        ),
        Stub("nvidia-fabricmanager", debian, files={"usr/bin/nv-fabricmanager": manager}),
    ]


def _printing(name: str, version: str, program: str, line: str) -> Stub:
    text = f"#!/bin/sh\necho '{line}'\n"
    return Stub(name, version, files={f"usr/bin/{program}": text}, scripts={"postinst": _HOLD})


def _toolkit(version: str) -> Stub:
    line = f"NVIDIA Container Toolkit CLI version {version.rpartition('-')[0]}"
    return _printing("nvidia-container-toolkit", version, "nvidia-ctk", line)


def _containerd(version: str) -> Stub:
    line = f"containerd github.com/containerd/containerd {version.rpartition('-')[0]} stub"
    return _printing("containerd", version, "containerd", line)


def _kernel(release: str) -> Stub:
    return Stub(
        f"linux-image-{release}",
        "6.1.153-1",
        scripts={"postinst": "update-grub\n"},
        breaks_at_boot=release == KERNELS[-1],
    )


STUBS: Final = (
    *(stub for version in DRIVERS for stub in _driver(version)),
    Stub(PRECOMPILED, f"{GOOD}-1", conflicts="nvidia-kernel-dkms"),
    *(Stub("datacenter-gpu-manager-4-core", version) for version in DCGM),
    *(_toolkit(version) for version in TOOLKIT),
    *(_containerd(version) for version in CONTAINERD),
    *(_kernel(release) for release in KERNELS),
    *(Stub(f"linux-headers-{release}", "6.1.153-1") for release in KERNELS),
    Stub("libgpustub1", SECURITY[0]),
)
SECURITY_STUBS: Final = (Stub("libgpustub1", SECURITY[1]),)
INSTALLED: Final = (
    *(stub for stub in STUBS if stub.version == f"{CURRENT}-1"),
    *(
        next(stub for stub in STUBS if stub.name == name)
        for name in (
            "datacenter-gpu-manager-4-core",
            "nvidia-container-toolkit",
            "containerd",
            f"linux-image-{KERNELS[0]}",
            f"linux-headers-{KERNELS[0]}",
            "libgpustub1",
        )
    ),
)
"""What a new host has."""


def file_name(stub: Stub) -> str:
    """Of the package's file; without the epoch, as dpkg-deb names it."""
    return f"{stub.name}_{stub.version.rpartition(':')[2]}_all.deb"


def repository() -> Path:
    """The folder of the signed repository and its keyring, from the cache or made."""
    return made_once("packages", sources(Path(__file__)), make)


def make(folder: Path) -> None:
    """Build every package into the repository and its `security/`, and sign both.

    The key is made for this and thrown away; its public half is the keyring beside the index.
    """
    home = Path(tempfile.mkdtemp(prefix="gpu-stub-"))
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--yes"]
    key = ["--passphrase", "", "--quick-generate-key", "gpu-stub", "ed25519", "sign", "never"]
    try:
        _run([*gpg, *key])
        _run([*gpg, "--output", str(folder / KEYRING), "--export", "gpu-stub"])
        (folder / "security").mkdir()
        for archive, stubs, about in (
            (folder, STUBS, "Origin: gpu-stub\nLabel: gpu-stub\nSuite: stable\nCodename: stub\n"),
            (folder / "security", SECURITY_STUBS, _SECURITY_ARCHIVE),
        ):
            for stub in stubs:
                _build(stub, archive)
            _index(archive, [file_name(stub) for stub in stubs], about)
            signed = ["--output", str(archive / "InRelease"), "--clearsign"]
            _run([*gpg, *signed, str(archive / "Release")])
    finally:
        subprocess.run(
            ["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True
        )
        shutil.rmtree(home, ignore_errors=True)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)


def _index(folder: Path, names: list[str], about: str) -> None:
    content = "".join(_entry(folder / name) for name in names).encode()
    files = {"Packages": content, "Packages.gz": gzip.compress(content, mtime=0)}
    lines = [f"{about}Architectures: amd64 all", f"Date: {formatdate(usegmt=True)}", "SHA256:"]
    for name, body in files.items():
        (folder / name).write_bytes(body)
        lines.append(f" {hashlib.sha256(body).hexdigest()} {len(body)} {name}")
    (folder / "Release").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _build(stub: Stub, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "root"
        control = root / "DEBIAN"
        control.mkdir(parents=True)
        relations = {"Depends": stub.depends, "Conflicts": stub.conflicts}
        depends = "".join(f"{name}: {told}\n" for name, told in relations.items() if told)
        (control / "control").write_text(
            f"Package: {stub.name}\nVersion: {stub.version}\nArchitecture: all\n{depends}"
            "Maintainer: gpufleet <root@localhost>\nDescription: Stub for tests\n",
            encoding="utf-8",
        )
        for name, text in stub.scripts.items():
            _program(control / name, f"#!/bin/sh\nset -e\n{text}")
        told = {"version": stub.upstream, "breaks_at_boot": stub.breaks_at_boot}
        marker = root / "usr/lib/gpu-stub/installed" / stub.name
        marker.parent.mkdir(parents=True)
        marker.write_text(json.dumps(told), encoding="utf-8")
        for path, text in stub.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            _program(root / path, text)
        built = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(root)]
        subprocess.run([*built, str(folder / file_name(stub))], check=True, capture_output=True)


def _program(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
    file.chmod(0o755)


def _entry(file: Path) -> str:
    control = subprocess.run(
        ["dpkg-deb", "--field", str(file)], check=True, capture_output=True, text=True
    ).stdout
    content = file.read_bytes()
    return (
        f"{control}Filename: ./{file.name}\nSize: {len(content)}\n"
        f"SHA256: {hashlib.sha256(content).hexdigest()}\n\n"
    )
