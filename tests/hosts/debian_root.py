"""The hosts' Debian: a minimal root by debootstrap, and over it what makes it a GPU host."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.hosts import packages
from tests.hosts.cached import made_once, sources
from tests.hosts.stubs.programs import PROGRAMS

USER: Final = "gpufleet"
_HERE: Final = Path(__file__).parent
_STUBS: Final = _HERE / "stubs"
_CUDA: Final = _STUBS / "libcuda.c"
"""Compiled where the machine has a compiler; without it the hosts have no CUDA to initialise."""
_HOME: Final = Path("usr/lib/gpu-stub")
_INCLUDED: Final = "openssh-server,python3,python3-apt,sudo,procps,iproute2"
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DEFAULT_MIRROR: Final = "http://deb.debian.org/debian"
_ENVIRONMENT: Final = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
    "DEBIAN_FRONTEND": "noninteractive",
}
_LAUNCHER: Final = """\
#!/usr/bin/python3 -IS
import sys

sys.path.insert(0, "/usr/lib/gpu-stub")
from tests.hosts.stubs.{module} import main

main()
"""
_SET_UP: Final = f"""\
set -eu
mount -t proc proc /proc
useradd --create-home --shell /bin/sh --password '*' {USER}
install -d -m 0700 -o {USER} -g {USER} /home/{USER}/.ssh
install -d -m 0700 /root/.ssh
usermod --password '*' root
echo '{USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{USER}
chmod 0440 /etc/sudoers.d/{USER}
rm -f /etc/ssh/ssh_host_* /etc/apt/sources.list
mv /usr/bin/uname /usr/bin/uname.real
cp -a /mnt/add/. /
python3 -m compileall -q /usr/lib/gpu-stub
dpkg --force-unsafe-io --install /mnt/packages/*.deb
rm -rf /var/lib/gpu-stub/next_kernel /run/gpu-stub
umount /proc
"""
_SSHD: Final = f"""\
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PermitRootLogin prohibit-password
AllowUsers {USER} root
MaxStartups 200
MaxSessions 100
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp /usr/lib/openssh/sftp-server
"""


class NoDebian(Exception):
    """Why there is no Debian root here, for the skip."""


def layers() -> tuple[Path, Path]:
    """The folders of the Debian root and of what lies over it, made where they are not cached.

    Raises:
        NoDebian: neither cached nor to be made here.
    """
    release = _release()
    arguments = (release, _INCLUDED, platform.machine())
    minimal = made_once("debian", [part.encode() for part in arguments], _bootstrap)
    files = (Path(__file__), Path(packages.__file__), _STUBS, _CUDA)
    compiler = (shutil.which("cc") or "").encode()
    made_of = [minimal.name.encode(), compiler, *sources(*files)]
    over = made_once("host", made_of, lambda folder: _provision(minimal / "root", folder))
    return minimal / "root", over / "upper"


def _release() -> str:
    facts = platform.freedesktop_os_release()
    if facts.get("ID") != "debian":
        raise NoDebian("the hosts' root is made by Debian's apt, and this is no Debian")
    return facts["VERSION_CODENAME"]


def _bootstrap(folder: Path) -> None:
    """Unpack debootstrap where it is not installed, and let it make the root."""
    release = _release()
    if not _KEYRING.is_file():
        raise NoDebian(f"{_KEYRING} is not there")
    tool, variables = shutil.which("debootstrap"), {}
    if tool is None:
        unpacked = folder / "debootstrap"
        got = subprocess.run(
            ["apt-get", "--option=APT::Sandbox::User=root", "download", "debootstrap"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if got.returncode:
            raise NoDebian("debootstrap is not installed, and apt cannot download it")
        (package,) = folder.glob("debootstrap_*.deb")
        subprocess.run(["dpkg-deb", "--extract", str(package), str(unpacked)], check=True)
        package.unlink()
        tool = str(unpacked / "usr/sbin/debootstrap")
        variables = {"DEBOOTSTRAP_DIR": str(unpacked / "usr/share/debootstrap")}
    log = folder / "log"
    command = ["unshare", "--mount", "--", tool, "--variant=minbase", f"--include={_INCLUDED}"]
    command += [f"--keyring={_KEYRING}", release, str(folder / "root"), _mirror()]
    with log.open("wb") as output:
        made = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **_ENVIRONMENT, **variables},
            check=False,
        )
    if made.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1:]
        raise NoDebian(f"debootstrap failed: {' '.join(last)[:200]}")
    shutil.rmtree(folder / "root/var/cache/apt/archives", ignore_errors=True)
    (folder / "root/var/cache/apt/archives/partial").mkdir(parents=True)


def _mirror() -> str:
    """The mirror that the machine's apt takes Debian from."""
    form = "$(REPO_URI) $(ORIGIN) $(LABEL) $(CODENAME)"
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = re.search(rf"^(\S+) Debian Debian {_release()}$", told, re.MULTILINE)
    return found[1] if found else _DEFAULT_MIRROR


def _provision(root: Path, folder: Path) -> None:
    """What makes a Debian root a GPU host, as the upper layer of an overlay."""
    for name in ("upper", "work", "merged", "add"):
        (folder / name).mkdir()
    add = folder / "add"
    library = add / _HOME / "tests/hosts/stubs"
    library.mkdir(parents=True)
    for source in sorted(_STUBS.glob("*.py")):
        shutil.copy(source, library)
    _program(add / _HOME / "init", _LAUNCHER.format(module="machine"))
    for name in PROGRAMS:
        _program(add / "usr/bin" / name, _LAUNCHER.format(module="programs"))
    if (compiler := shutil.which("cc")) is not None:
        libraries = add / "usr/lib" / f"{platform.machine()}-linux-gnu"
        libraries.mkdir(parents=True)
        cuda = ["-shared", "-fPIC", "-O1", "-o", str(libraries / "libcuda.so.1"), str(_CUDA)]
        subprocess.run([compiler, *cuda], check=True, capture_output=True)
    (add / "etc/ssh").mkdir(parents=True)
    (add / "etc/ssh/sshd_config").write_text(_SSHD, encoding="utf-8")
    (add / "etc/default/grub.d").mkdir(parents=True)
    (add / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True)
    (add / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n", encoding="utf-8")
    debs = folder / "packages"
    debs.mkdir()
    for stub in packages.INSTALLED:
        shutil.copy(packages.repository() / packages.file_name(stub), debs)
    script = f"""\
set -eu
cd {folder}
mount -t overlay overlay -o lowerdir={root},upperdir={folder}/upper,workdir={folder}/work merged
mkdir merged/mnt/add merged/mnt/packages
mount --bind add merged/mnt/add
mount --bind packages merged/mnt/packages
mount --bind /dev merged/dev
chroot merged /bin/sh -c "$1"
umount merged/mnt/add merged/mnt/packages merged/dev
rmdir merged/mnt/add merged/mnt/packages
umount merged
"""
    made = subprocess.run(
        ["unshare", "--mount", "--", "/bin/sh", "-c", script, "provision", _SET_UP],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_ENVIRONMENT,
        check=False,
    )
    if made.returncode:
        raise RuntimeError(f"a host's root cannot be made: {made.stdout}{made.stderr}")
    for name in ("work", "add", "packages"):
        shutil.rmtree(folder / name)


def _program(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    file.chmod(0o755)
