"""A headless Chromium from Debian's packages: what a person's browser makes of a page."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
_BINARY = "usr/lib/chromium/chromium"


@contextmanager
def chromium(cache: Path) -> Iterator[Browser]:
    """Start one; it has no network but loopback to lose.

    Skips the test where none is to be had.
    """
    root = _root(cache)
    libraries = sorted({str(file.parent) for file in (root / "usr/lib").glob("**/lib*.so*")})
    # The machine's own folders are searched anyway.
    path = [] if root == Path("/") else [f for f in libraries if "/usr/lib/chromium" not in f]
    variables = {**os.environ, "LD_LIBRARY_PATH": ":".join(path)}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=root / _BINARY, args=_ARGUMENTS, env=dict(variables)
        )
        try:
            yield browser
        finally:
            browser.close()


def _root(cache: Path) -> Path:
    """The folder that Chromium is installed in, or unpacked into with what it links to."""
    for root in (Path("/"), cache / "root"):
        if (root / _BINARY).is_file():
            return root
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("Chromium is not installed, and this is no Debian to get it from")
    packages = cache / "packages"
    (packages / "partial").mkdir(parents=True, exist_ok=True)
    options = [f"-oDir::Cache::archives={packages}", "-oDebug::NoLocking=1", "-qq", "-y"]
    got = subprocess.run(
        ["apt-get", *options, "--download-only", "--no-install-recommends", "install", "chromium"],
        capture_output=True,
        check=False,
    )
    if got.returncode:
        pytest.skip("Chromium is not installed, and its packages cannot be downloaded")
    half = cache / "half"
    shutil.rmtree(half, ignore_errors=True)
    for package in sorted(packages.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(package), str(half)], check=True)
    half.rename(cache / "root")
    return cache / "root"
