"""Firmware of one host, by its management controller: observe, decide, update, verify."""

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from gpufleet.core.patching.firmware import (
    activation_of,
    demand_forward,
    demand_ready,
    is_done,
    is_older,
    versions_of,
)
from gpufleet.edges.redfish import Controller
from gpufleet.flows.firmware_line import FirmwareOrder, Line, Login, until
from gpufleet.spec.errors import BadInput, Failed, Retryable
from gpufleet.spec.firmware import FirmwareResult, Software, UpdateProgress, UpdateState
from gpufleet.spec.hardware import Activation


def observe(order: FirmwareOrder, login: Login) -> dict[str, str]:
    """Version by entry of the inventory that the part has.

    Raises:
        BadInput: the controller refuses the login, or has no such part.
        Retryable: it does not answer.
    """
    with Line(order, login) as line:
        return versions_of(line.ask(order.read))


def demand(order: FirmwareOrder, login: Login) -> None:
    """Refuse an update that could not be done, before anything is touched.

    Raises:
        BadInput: the image is missing, or is not the one that its digest tells of.
        PolicyRefused: the host has a fault, or the version is older.
        Retryable: the controller does not answer.
    """
    with Line(order, login) as line:
        line.ask(lambda controller: _demand(order, controller))


def update(order: FirmwareOrder, login: Login) -> FirmwareResult:
    """Bring the part to the version, whatever an earlier run has done of it.

    A controller that restarts in the middle is waited for. An update that is under way already, of
    a run that was killed, is awaited before anything is sent. What waits for a reset is as far as
    it comes: the result says that it does not run yet.

    Raises:
        BadInput: as `demand`.
        PolicyRefused: as `demand`.
        Failed: the controller refuses the image, the update ends badly, or takes too long.
        Retryable: the controller does not answer within the time.
    """
    deadline = time.monotonic() + order.within_s
    with Line(order, login) as line:
        before = versions_of(line.ask(order.read))
        running = line.ask(lambda controller: controller.running_updates(order.system))
        found = [_await_end(order, line, task, deadline).state for task in running]
        if running:
            # It may have restarted since.
            until(lambda: _returning(order, line), deadline)
        if UpdateState.GONE in found:
            _await_rest(order, line, deadline)
        entries = line.ask(order.read)
        if is_done(entries, order.version):
            return FirmwareResult(before, versions_of(entries), changed=bool(running))
        if UpdateState.STAGED in found:
            return FirmwareResult(before, before, changed=True, activated=False)
        task = line.ask(lambda controller: _send(order, controller))
        gone = UpdateProgress(UpdateState.GONE)
        ended = _await_end(order, line, task, deadline) if task else gone
        if ended.state is UpdateState.FAILED:
            raise Failed(f"the firmware update failed: {ended.message}", where=order.endpoint)
        if ended.state is UpdateState.STAGED:
            return FirmwareResult(before, before, changed=True, activated=False)
        if ended.state is UpdateState.GONE:
            _await_rest(order, line, deadline)
        return _verified(order, line, before, deadline)


def _send(order: FirmwareOrder, controller: Controller) -> str:
    _demand(order, controller)
    entries = order.read(controller)
    targets = [entry.uri for entry in entries if entry.version != order.version]
    older = order.rehearsed and is_older(entries, order.version)
    return controller.update(order.image, targets, force=older)


def _verified(
    order: FirmwareOrder, line: Line, before: dict[str, str], deadline: float
) -> FirmwareResult:
    """Wait for the new version; some firmware shows it once the host has restarted."""
    shows = activation_of(order.part, order.activation) is Activation.NONE

    def look() -> dict[str, str] | None:
        entries = _returning(order, line)
        done = is_done(entries, order.version)
        return versions_of(entries) if done or not shows else None

    after = until(look, deadline)
    if after is None:
        found = ", ".join(f"{entry} {version}" for entry, version in before.items())
        raise Failed(
            f"the firmware is still the old one after {order.within_s:.0f} s: {found}",
            where=order.endpoint,
            mend="see the controller's log",
        )
    activated = all(version == order.version for version in after.values())
    return FirmwareResult(before, after, changed=True, activated=activated)


def _await_end(order: FirmwareOrder, line: Line, task: str, deadline: float) -> UpdateProgress:
    waits_since: float | None = None

    def look() -> UpdateProgress | None:
        nonlocal waits_since
        progress = line.ask(lambda controller: controller.progress(task))
        if progress.state is not UpdateState.WAITING:
            waits_since = None
            return progress if progress.state is not UpdateState.RUNNING else None
        waits_since = waits_since or time.monotonic()
        staged = time.monotonic() - waits_since >= order.staged_after_s
        return replace(progress, state=UpdateState.STAGED) if staged else None

    return until(look, deadline) or _too_late(order)


def _await_rest(order: FirmwareOrder, line: Line, deadline: float) -> None:
    """Wait until nothing is written any more, where no task tells so.

    A controller that forgot its task may go on writing; a restart of the host would cut it short.
    """
    last: object = None
    since = time.monotonic()

    def look() -> bool | None:
        nonlocal last, since
        entries = _returning(order, line)
        running = line.ask(lambda controller: controller.running_updates(order.system))
        seen = (entries, running)
        if running or any(entry.is_updating for entry in entries) or seen != last:
            last, since = seen, time.monotonic()
            return None
        return time.monotonic() - since >= order.settles_within_s or None

    until(look, deadline) or _too_late(order)


def _returning(order: FirmwareOrder, line: Line) -> list[Software]:
    """The part's entries; a controller that has just restarted may not know them all yet."""
    try:
        return line.ask(order.read)
    except (BadInput, Failed) as error:
        raise Retryable(str(error)) from error


def _too_late(order: FirmwareOrder) -> NoReturn:
    raise Failed(
        f"the firmware update did not end within {order.within_s:.0f} s",
        where=order.endpoint,
        mend="leave the host's power on, and see the controller's log",
    )


def _demand(order: FirmwareOrder, controller: Controller) -> None:
    entries = order.read(controller)
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
