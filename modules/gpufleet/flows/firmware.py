"""Firmware of one host, by its management controller: observe, decide, update, verify."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from gpufleet.core.patching.firmware import (
    demand_forward,
    demand_ready,
    expression_of,
    is_done,
    versions_of,
)
from gpufleet.edges.redfish import Controller
from gpufleet.spec.errors import BadInput, Failed, Retryable
from gpufleet.spec.firmware import FirmwareResult, Software, UpdateProgress, UpdateState
from gpufleet.spec.patching import Part

_FIRST_POLL_S: Final = 0.25
_POLL_S: Final = 2.0

T = TypeVar("T")


@dataclass(frozen=True)
class FirmwareOrder:
    """What a host is to have."""

    endpoint: str
    """Of its controller."""
    system: str
    """Redfish id of the host's ComputerSystem."""
    part: Part
    version: str
    image: Path
    """The vendor's file; `IMAGE.sha256` beside it holds its digest, as sha256sum writes it."""
    authority: Path | None = None
    """Who signed the controller's certificate."""
    entries: str = ""
    """Regular expression for the ids of the inventory's entries, in place of the usual ones."""
    rehearsed: bool = False
    """Whether going back to an older version was tried."""
    within_s: float = 3600
    """Longest time for the update with the controller's restart, s."""


@dataclass(frozen=True)
class Login:
    """Who updates firmware."""

    user: str
    password: str

    def __repr__(self) -> str:
        # A trace never shows a password.
        return f"Login({self.user!r})"


def observe(order: FirmwareOrder, login: Login) -> dict[str, str]:
    """Version by entry of the inventory that the part has.

    Raises:
        BadInput: the controller refuses the login, or has no such part.
        Retryable: it does not answer.
    """
    with _opened(order, login) as controller:
        return versions_of(_entries(order, controller))


def demand(order: FirmwareOrder, login: Login) -> None:
    """Refuse an update that could not be done, before anything is touched.

    Raises:
        BadInput: the image is missing, or is not the one that its digest tells of.
        PolicyRefused: the host has a fault, or the version is older.
        Retryable: the controller does not answer.
    """
    with _opened(order, login) as controller:
        _demand(order, controller)


def update(order: FirmwareOrder, login: Login) -> FirmwareResult:
    """Bring the part to the version, whatever an earlier run has done of it.

    A controller that restarts in the middle is waited for. An update that is under way already, of
    a run that was killed, is awaited before anything is sent.

    Raises:
        BadInput: as `demand`.
        PolicyRefused: as `demand`.
        Failed: the controller refuses the image, the update ends badly, or takes too long.
        Retryable: the controller does not answer within the time.
    """
    deadline = time.monotonic() + order.within_s
    with _opened(order, login) as controller:
        before = versions_of(_entries(order, controller))
        running = controller.running_updates(order.system)
    for task in running:
        _await_end(order, login, task, deadline)
    if running:
        # It may have restarted since.
        _until(lambda: observe(order, login), deadline)
    with _opened(order, login) as controller:
        entries = _entries(order, controller)
        if is_done(entries, order.version):
            return FirmwareResult(before, versions_of(entries), changed=bool(running))
        _demand(order, controller)
        targets = [entry.uri for entry in entries if entry.version != order.version]
        task = controller.update(order.image, targets)
    ended = _await_end(order, login, task, deadline) if task else UpdateProgress(UpdateState.GONE)
    if ended.state is UpdateState.FAILED:
        raise Failed(f"the firmware update failed: {ended.message}", where=order.endpoint)
    return _verified(order, login, before, deadline)


def _verified(
    order: FirmwareOrder, login: Login, before: dict[str, str], deadline: float
) -> FirmwareResult:
    """Wait for the new version; that of GPUs shows once the host has restarted."""

    def look() -> dict[str, str] | None:
        with _opened(order, login) as controller:
            entries = _entries(order, controller)
            done = is_done(entries, order.version)
            return versions_of(entries) if done or order.part is Part.VBIOS else None

    after = _until(look, deadline)
    if after is None:
        found = ", ".join(f"{entry} {version}" for entry, version in before.items())
        raise Failed(
            f"the firmware is still the old one after {order.within_s:.0f} s: {found}",
            where=order.endpoint,
            mend="see the controller's log",
        )
    activated = all(version == order.version for version in after.values())
    return FirmwareResult(before, after, changed=True, activated=activated)


def _await_end(order: FirmwareOrder, login: Login, task: str, deadline: float) -> UpdateProgress:
    def look() -> UpdateProgress | None:
        with _opened(order, login) as controller:
            progress = controller.progress(task)
        return progress if progress.state is not UpdateState.RUNNING else None

    ended = _until(look, deadline)
    if ended is None:
        raise Failed(
            f"the firmware update did not end within {order.within_s:.0f} s",
            where=order.endpoint,
            mend="leave the host's power on, and see the controller's log",
        )
    return ended


def _until(look: Callable[[], T | None], deadline: float) -> T | None:
    """The first answer; a controller that does not answer is asked again until the deadline."""
    pause_s = _FIRST_POLL_S
    while True:
        silence: Retryable | None = None
        try:
            found = look()
        except Retryable as error:
            found, silence = None, error
        if found is not None:
            return found
        if time.monotonic() > deadline:
            if silence is not None:
                raise silence
            return None
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _POLL_S)


def _opened(order: FirmwareOrder, login: Login) -> Controller:
    return Controller(order.endpoint, login.user, login.password, order.authority)


def _entries(order: FirmwareOrder, controller: Controller) -> list[Software]:
    return controller.firmware(expression_of(order.part, order.system, order.entries))


def _demand(order: FirmwareOrder, controller: Controller) -> None:
    entries = _entries(order, controller)
    if is_done(entries, order.version):
        return
    demand_forward(entries, order.version, rehearsed=order.rehearsed)
    demand_ready(order.part, controller.condition(order.system))
    _demand_whole(order.image)


def _demand_whole(image: Path) -> None:
    """Refuse an image that is not the one that its digest tells of."""
    told = image.with_name(f"{image.name}.sha256")
    try:
        digest = told.read_text(encoding="ascii").split()[:1]
        found = hashlib.sha256(image.read_bytes()).hexdigest()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        where = str(getattr(error, "filename", None) or told)
        raise BadInput(
            f"cannot be read ({reason})",
            where=where,
            mend="put the vendor's image there, and its digest beside it: sha256sum IMAGE",
        ) from None
    if digest != [found]:
        raise BadInput(
            "is not the file that its digest tells of", where=str(image), mend="fetch it again"
        )
