"""What the emulator of the lab's controllers has not: firmware, its updates, and power.

One service stands for all controllers, so that what belongs to a host carries its name: the
firmware `gpu-001-bmc` and `gpu-001-vbios` (their RelatedItem names the manager and the system),
tasks `gpu-001-1`. A controller that restarts is one for whose resources the connection is closed.
"""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import flask

ROOT: Final = "/redfish/v1"
PUSH: Final = f"{ROOT}/UpdateService/update-multipart"
RENEWED: Final = "renewed"
"""Beside the faults: this controller is to be as it was at the start."""
_STEP: Final = 25
"""How far a task gets from one question to the next, per cent."""
_LOST_REQUESTS: Final = 3
"""That a controller does not answer while it starts its new firmware."""
_FIRST: Final = {"bmc": "1.00", "vbios": "96.00.89.00.01"}


@dataclass
class Update:
    """One image on its way into a controller."""

    id: str
    host: str
    part: str
    version: str
    percent: int = 0
    state: str = "Running"
    is_forgotten: bool = False
    """Whether the controller writes on, and has no task for it any more."""


@dataclass
class Firmware:
    """What all controllers have, and what they are doing."""

    folder: Path
    hosts: list[str]
    updates: dict[str, Update] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    """Requests that a controller will not answer."""
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @property
    def parts(self) -> list[str]:
        """Ids of everything that is installed anywhere."""
        return [f"{host}-{part}" for host in self.hosts for part in _FIRST]

    def has_fault(self, host: str, name: str) -> bool:
        """Whether a test broke this."""
        return (self.folder / "faults" / f"{host}.{name}").exists()

    def version(self, host: str, part: str) -> str:
        """What is installed. A host's VBIOS is what its GPUs say: the new one after a boot."""
        file = self._host_state(host) / "vbios" if part == "vbios" else self._own(host)
        return file.read_text(encoding="utf-8").strip() if file.exists() else _FIRST[part]

    def _own(self, host: str) -> Path:
        return self.folder / f"{host}.version"

    def _host_state(self, host: str) -> Path:
        return self.folder.parent / host / "var/upper/lib/gpu-stub"

    def begin(self, host: str, part: str, version: str) -> Update:
        """Take an image."""
        update = Update(f"{host}-{next(self._numbers)}", host, part, version)
        self.updates[update.id] = update
        return update

    def busy(self, host: str) -> int:
        """The status of an answer that has nothing to do with the update; 0 for none."""
        for status in (401, 429, 500, 503):
            file = self.folder / "faults" / f"{host}.answers-{status}"
            if file.exists():
                file.unlink()
                return status
        return 0

    def writing(self, target: str) -> bool:
        """Whether an entry is being written by an update without a task: it goes on."""
        found = [
            each
            for each in self.updates.values()
            if each.is_forgotten
            and each.state == "Running"
            and f"{each.host}-{each.part}" == target
        ]
        for update in found:
            self.advance(update)
        return bool(found)

    def advance(self, update: Update) -> None:
        """Somebody asks how far it is: it goes on."""
        if self.has_fault(update.host, "awaits-reset") and update.state == "Running":
            update.state = "Pending"
        if update.state != "Running" or self.has_fault(update.host, "update-hangs"):
            return
        update.percent += _STEP
        if update.percent >= 2 * _STEP and self.has_fault(update.host, "update-fails"):
            update.state = "Exception"
        elif update.percent >= 100:
            update.state = "Completed"
            self._activate(update)

    def _activate(self, update: Update) -> None:
        if update.part == "vbios":
            folder = self._host_state(update.host)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "next_vbios").write_text(update.version + "\n", encoding="utf-8")
            return
        self._own(update.host).write_text(update.version, encoding="utf-8")
        self.lost[update.host] = _LOST_REQUESTS

    def answers(self, path: str) -> bool:
        """Whether the controller that a path belongs to answers now."""
        for host in self.hosts:
            if self.has_fault(host, RENEWED):
                self._renew(host)
        for host in self.hosts:
            if host not in path:
                continue
            if self.has_fault(host, "unreachable"):
                return False
            if self.lost.get(host, 0) > 0:
                self.lost[host] -= not self.has_fault(host, "does-not-return")
                return False
        return True

    def _renew(self, host: str) -> None:
        (self.folder / "faults" / f"{host}.{RENEWED}").unlink()
        self._own(host).unlink(missing_ok=True)
        self.lost.pop(host, None)
        for update in [each for each in self.updates.values() if each.host == host]:
            del self.updates[update.id]


def link(path: str) -> dict[str, str]:
    return {"@odata.id": f"{ROOT}/{path}"}


def collection(path: str, kind: str, members: Iterable[str]) -> dict[str, Any]:
    links = [link(f"{path}/{member}") for member in members]
    return {
        **link(path),
        "@odata.type": f"#{kind}Collection.{kind}Collection",
        "Name": f"{kind} Collection",
        "Members": links,
        "Members@odata.count": len(links),
    }


def _refuse(code: int, message: str) -> flask.Response:
    info = [{"MessageId": "Base.1.0.GeneralError", "Message": message}]
    body = {"code": "Base.1.0.GeneralError", "message": message, "@Message.ExtendedInfo": info}
    return flask.make_response(flask.jsonify({"error": body}), code)


def inventory(firmware: Firmware) -> flask.Blueprint:
    """What is installed."""
    pages = flask.Blueprint("inventory", __name__, url_prefix=ROOT)
    parts = firmware.parts

    @pages.get("/UpdateService/FirmwareInventory")
    def every() -> dict[str, Any]:
        return collection("UpdateService/FirmwareInventory", "SoftwareInventory", parts)

    @pages.get("/UpdateService/FirmwareInventory/<identity>")
    def installed(identity: str) -> dict[str, Any]:
        if identity not in parts:
            flask.abort(404)
        host, _, part = identity.rpartition("-")
        related = f"Managers/{host}" if part == "bmc" else f"Systems/{host}"
        return {
            **link(f"UpdateService/FirmwareInventory/{identity}"),
            "@odata.type": "#SoftwareInventory.v1_10_0.SoftwareInventory",
            "Id": identity,
            "Name": f"{part} of {host}",
            "SoftwareId": part,
            "Version": firmware.version(host, part),
            "Updateable": True,
            "RelatedItem": [link(related)],
            "Status": {
                "State": "Updating" if firmware.writing(identity) else "Enabled",
                "Health": "OK",
            },
        }

    return pages


def updates(firmware: Firmware) -> flask.Blueprint:
    """Taking images, and the tasks that write them."""
    pages = flask.Blueprint("updates", __name__, url_prefix=ROOT)

    @pages.post("/UpdateService/update-multipart")
    def push() -> flask.Response:
        return _push(firmware)

    @pages.get("/TaskService")
    def task_service() -> dict[str, Any]:
        return {**link("TaskService"), "Id": "TaskService", "Tasks": link("TaskService/Tasks")}

    @pages.get("/TaskService/Tasks")
    def tasks() -> dict[str, Any]:
        told = [name for name, update in firmware.updates.items() if not update.is_forgotten]
        return collection("TaskService/Tasks", "Task", told)

    @pages.get("/TaskService/Tasks/<identity>")
    def task(identity: str) -> dict[str, Any]:
        if identity not in firmware.updates:
            flask.abort(404)
        update = firmware.updates[identity]
        if firmware.has_fault(update.host, "forgets"):
            update.is_forgotten = True
        if update.is_forgotten:
            flask.abort(404)
        if status := firmware.busy(update.host):
            flask.abort(status)
        firmware.advance(update)
        return _task(update)

    return pages


def _push(firmware: Firmware) -> flask.Response:
    form, file = flask.request.form, flask.request.files.get("UpdateFile")
    given = form.get("UpdateParameters") or _part("UpdateParameters")
    if file is None or given is None:
        return _refuse(400, "UpdateParameters and UpdateFile are needed")
    try:
        parameters = json.loads(given)
        targets = parameters.get("Targets") or []
        image = json.loads(file.read())
        named = {str(target).rstrip("/").rpartition("/")[2] for target in targets}
        (target,) = named
    except (ValueError, AttributeError):
        return _refuse(400, "the image is not valid, or there is not exactly one target")
    host, _, part = target.rpartition("-")
    if target not in firmware.parts or image.get("part") != part:
        return _refuse(400, f"the image is not for {target}")
    if any(u.host == host and u.state == "Running" for u in firmware.updates.values()):
        return _refuse(503, f"{host} is being updated")
    older = str(image["version"]) < firmware.version(host, part)
    if older and not parameters.get("ForceUpdate"):
        return _refuse(400, f"the image is older than what {target} has")
    update = firmware.begin(host, part, str(image["version"]))
    answer = flask.make_response(flask.jsonify(_task(update)), 202)
    answer.headers["Location"] = f"{ROOT}/TaskService/Tasks/{update.id}"
    return answer


def _part(name: str) -> str | None:
    """A part that was sent as a file, which some clients do with JSON."""
    sent = flask.request.files.get(name)
    return None if sent is None else sent.read().decode()


def _task(update: Update) -> dict[str, Any]:
    failed = update.state == "Exception"
    told = {
        "Running": f"Updating {update.part}",
        "Pending": f"Awaiting a power cycle to activate {update.part}",
        "Exception": "The image could not be written; the component keeps its version",
        "Completed": f"{update.part} {update.version} is written",
    }[update.state]
    severity = "Critical" if failed else "OK"
    identity = "AwaitToActivate" if update.state == "Pending" else "Status"
    return {
        **link(f"TaskService/Tasks/{update.id}"),
        "@odata.type": "#Task.v1_7_0.Task",
        "Id": update.id,
        "Name": f"Update of {update.host}",
        "TaskState": update.state,
        "TaskStatus": severity,
        "PercentComplete": update.percent,
        "Messages": [
            {"Message": told, "Severity": severity, "MessageId": f"Update.1.0.{identity}"}
        ],
    }


def power(firmware: Firmware) -> flask.Blueprint:
    """Power supplies and batteries of each host's chassis."""
    pages = flask.Blueprint("power", __name__, url_prefix=f"{ROOT}/Chassis/<host>/PowerSubsystem")

    @pages.get("/")
    def subsystem(host: str) -> dict[str, Any]:
        base = f"Chassis/{host}/PowerSubsystem"
        links = {name: link(f"{base}/{name}") for name in ("PowerSupplies", "Batteries")}
        return {**link(base), "Id": "PowerSubsystem", "Name": "Power", **links}

    @pages.get("/PowerSupplies")
    def supplies(host: str) -> dict[str, Any]:
        path = f"Chassis/{host}/PowerSubsystem/PowerSupplies"
        return collection(path, "PowerSupply", ("1", "2"))

    @pages.get("/PowerSupplies/<identity>")
    def supply(host: str, identity: str) -> dict[str, Any]:
        failed = identity == "2" and firmware.has_fault(host, "supply-failed")
        status = {"State": "Enabled", "Health": "Critical" if failed else "OK"}
        path = f"Chassis/{host}/PowerSubsystem/PowerSupplies/{identity}"
        return {**link(path), "Id": identity, "Name": f"PSU {identity}", "Status": status}

    @pages.get("/Batteries")
    def batteries(host: str) -> dict[str, Any]:
        return collection(f"Chassis/{host}/PowerSubsystem/Batteries", "Battery", ("1",))

    @pages.get("/Batteries/<identity>")
    def battery(host: str, identity: str) -> dict[str, Any]:
        low = firmware.has_fault(host, "battery-low")
        path = f"Chassis/{host}/PowerSubsystem/Batteries/{identity}"
        return {
            **link(path),
            "Id": identity,
            "Name": f"Battery {identity}",
            "ChargePercent": 12 if low else 100,
            "Status": {"State": "Enabled", "Health": "Warning" if low else "OK"},
        }

    return pages
