"""A host's management controller, by Redfish: what it runs, how it is, a new firmware for it."""

import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self

from redfish.rest.v1 import (
    AuthMethod,
    BadRequestError,
    HttpClient,
    InvalidCredentialsError,
    JsonDecodingError,
    RestResponse,
    RetriesExhaustedError,
    ServerDownOrUnreachableError,
    SessionCreationError,
)

from gpufleet.edges.redfish_task import ENDED, messages, passes, progress_of
from gpufleet.spec.errors import BadInput, Failed, Retryable
from gpufleet.spec.firmware import Condition, Software, UpdateProgress

_TIMEOUT_S: Final = 30.0
_UPLOAD_S: Final = 900.0
"""Longest silence while an image is taken: a controller writes it to flash before it answers."""
_RETRIES: Final = 2
_MOST_BYTES: Final = 512 * 2**20
_MOST_MEMBERS: Final = 512
_SHOWN: Final = 20
_RESET: Final = "#ComputerSystem.Reset"
_RESET_TYPES: Final = "ResetType@Redfish.AllowableValues"
_HEALTHY: Final = frozenset({"", "OK"})
Json = Mapping[str, Any]


class Controller:
    """A management controller, logged in to; a context manager.

    Args:
        endpoint: such as `https://gpu-001-bmc.example.com`.
        user: who may update firmware.
        password: of this user.
        authority: who signed the controller's certificate; the system's authorities where it is
            not given. A certificate that nobody of them signed is refused.

    Raises:
        BadInput: user or password are refused, or the certificate is.
        Retryable: it does not answer.
    """

    def __init__(
        self, endpoint: str, user: str, password: str, authority: Path | None = None
    ) -> None:
        self.endpoint = endpoint
        try:
            self._client = HttpClient(
                base_url=endpoint,
                username=user,
                password=password,
                # Without a file the library would accept every certificate.
                cafile=str(authority) if authority else _system_authorities(),
                timeout=_TIMEOUT_S,
                max_retry=_RETRIES,
            )
            self._log_in()
        except InvalidCredentialsError:
            raise BadInput(
                "the management controller refuses user or password",
                where=endpoint,
                mend="set GPUFLEET_BMC_USER and GPUFLEET_BMC_PASSWORD",
            ) from None
        except (
            RetriesExhaustedError,
            ServerDownOrUnreachableError,
            SessionCreationError,
            JsonDecodingError,
        ) as error:
            raise self._silence(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Log out."""
        # A controller that has just restarted knows the session no more.
        with suppress(RetriesExhaustedError, BadRequestError, JsonDecodingError):
            self._client.logout()

    def _log_in(self) -> None:
        """By a session, or by each request's header where the controller has no sessions."""
        root = self._client.root
        sessions = _link(root.get("Links") or {}, "Sessions") or _link(root, "SessionService")
        self._client.login(auth=AuthMethod.SESSION if sessions else AuthMethod.BASIC)

    def firmware(self, expression: str) -> list[Software]:
        """Entries of the firmware inventory, by id.

        Args:
            expression: regular expression for whole ids; no other entry is read.

        Raises:
            BadInput: no entry has such an id.
            Retryable: it does not answer.
            Failed: it has no update service.
        """
        service = self._read(self._update_service())
        collection = _link(service, "FirmwareInventory")
        wanted = re.compile(expression, re.IGNORECASE)
        links = {link.rpartition("/")[2]: link for link in self._links(collection)}
        found = sorted(name for name in links if wanted.fullmatch(name))
        if not found:
            known = ", ".join(sorted(links)[:_SHOWN]) or "none"
            raise BadInput(
                "the controller has no such firmware entry",
                where=self.endpoint,
                mend=f"its entries are: {known}; say which with gpu_firmware_entries",
            )
        return [self._software(links[name]) for name in found]

    def _software(self, uri: str) -> Software:
        entry = self._read(uri)
        return Software(
            uri=uri,
            id=str(entry.get("Id", "")),
            version=str(entry.get("Version") or ""),
            updateable=bool(entry.get("Updateable", True)),
            is_updating=(entry.get("Status") or {}).get("State") == "Updating",
        )

    def condition(self, system: str) -> Condition:
        """How a host is: its power, and what is not healthy.

        Args:
            system: id or name of the ComputerSystem.

        Raises:
            Retryable: it does not answer.
            BadInput: it has no such system.
        """
        found = self._system(system)
        unhealthy = {}
        for name, part in self._parts(found):
            status = part.get("Status") or {}
            health = str(status.get("HealthRollup") or status.get("Health") or "")
            if health not in _HEALTHY and status.get("State") != "Absent":
                unhealthy[name] = health
        return Condition(str(found.get("PowerState") or ""), unhealthy)

    def power(self, system: str) -> str:
        """Redfish's `PowerState` of a host; empty where it is not told."""
        return str(self._system(system).get("PowerState") or "")

    def resets(self, system: str) -> list[str]:
        """The kinds of reset that a host takes, in Redfish's words (`ResetType`)."""
        return [str(kind) for kind in self._reset(system).get(_RESET_TYPES) or []]

    def reset(self, system: str, kind: str) -> None:
        """Reset a host, or press its button.

        Raises:
            Retryable: the controller does not answer, or is busy.
            Failed: it refuses.
        """
        target = str(self._reset(system).get("target") or "")
        if not target:
            raise Failed("the controller cannot reset the host", where=self.endpoint)
        try:
            answer = self._client.post(target, body={"ResetType": kind}, max_retry=0)
        except RetriesExhaustedError as error:
            raise self._silence(error) from None
        self._demand_taken(answer, f"refuses {kind}")

    def _reset(self, system: str) -> Json:
        found: Json = (self._system(system).get("Actions") or {}).get(_RESET) or {}
        return found

    def update(self, image: Path, targets: list[str], *, force: bool = False) -> str:
        """Give the controller a new firmware; it is written in the background.

        Never sent twice by itself: whoever calls knows from the inventory whether it was taken.

        Args:
            image: file of at most 512 MiB.
            targets: addresses of the inventory's entries that are updated.
            force: whether an older version is wanted: controllers pass by one without being told.

        Returns:
            Where its progress is read; empty where the controller has finished already.

        Raises:
            BadInput: the image cannot be read, or is too large.
            Retryable: it does not answer, or is busy with another update.
            Failed: it refuses the image.
        """
        push = self._read(self._update_service()).get("MultipartHttpPushUri")
        if not push:
            raise Failed("the controller takes no multipart updates", where=self.endpoint)
        try:
            too_large = image.stat().st_size > _MOST_BYTES
            content = b"" if too_large else image.read_bytes()
        except OSError as error:
            raise BadInput(f"cannot be read ({error.strerror})", where=str(image)) from None
        if too_large:
            raise BadInput(f"is larger than {_MOST_BYTES // 2**20} MiB", where=str(image))
        wanted = {"Targets": targets, **({"ForceUpdate": True} if force else {})}
        form = {
            "UpdateParameters": (None, json.dumps(wanted), "application/json"),
            "UpdateFile": (image.name, content, "application/octet-stream"),
        }
        try:
            answer = self._client.post(
                str(push),
                body=form,
                headers={"Content-Type": "multipart/form-data"},
                timeout=_UPLOAD_S,
                max_retry=0,
            )
        except RetriesExhaustedError as error:
            raise self._silence(error) from None
        self._demand_taken(answer, "refuses the firmware")
        body = _json(answer)
        if "Task" in str(body.get("@odata.type", "")):
            return str(body["@odata.id"])
        return str(answer.task_location or "")

    def progress(self, task: str) -> UpdateProgress:
        """How far an update is; `task` as `update` returned it.

        Raises:
            Retryable: it does not answer, as while it restarts, is busy, or has ended the session.
        """
        answer = self._get(task)
        if passes(answer.status):
            raise Retryable(f"answers {answer.status} for {task}", where=self.endpoint)
        return progress_of(answer.status, _json(answer))

    def running_updates(self, system: str) -> list[str]:
        """Tasks that have not ended: an update that somebody else, or a killed run, began.

        Args:
            system: whose; where one service stands for several hosts, by the names of its tasks.
        """
        service = _link(self._client.root, "Tasks")
        tasks = self._links(_link(self._read(service), "Tasks")) if service else []
        if len(self._links("/redfish/v1/Systems")) > 1:
            tasks = [task for task in tasks if system in task]
        return [task for task in tasks if self._goes_on(task)]

    def _goes_on(self, task: str) -> bool:
        state = self._read(task).get("TaskState")
        return bool(state) and state not in ENDED

    def _update_service(self) -> str:
        found = _link(self._client.root, "UpdateService")
        if not found:
            raise Failed("the controller has no update service", where=self.endpoint)
        return found

    def _system(self, name: str) -> Json:
        answer = self._get(f"/redfish/v1/Systems/{name}")
        if answer.status == HTTPStatus.OK:
            return _json(answer)
        systems = list(self._members("/redfish/v1/Systems"))
        for system in systems:
            if name in {system.get("Id"), system.get("Name")}:
                return system
        known = ", ".join(str(system.get("Id")) for system in systems) or "none"
        raise BadInput(
            f"the controller has no system `{name}`",
            where=self.endpoint,
            mend=f"its systems are: {known}; say which with bmc.system in the fleet file",
        )

    def _parts(self, system: Json) -> Iterator[tuple[str, Json]]:
        """All whose health counts, each with a name for a person."""
        yield "system", system
        links = system.get("Links") or {}
        for link in links.get("ManagedBy") or []:
            manager = self._read(link["@odata.id"])
            yield f"controller {manager.get('Id', '')}", manager
        for link in links.get("Chassis") or []:
            chassis = self._read(link["@odata.id"])
            yield f"chassis {chassis.get('Id', '')}", chassis
            yield from self._power_parts(chassis)

    def _power_parts(self, chassis: Json) -> Iterator[tuple[str, Json]]:
        if newer := _link(chassis, "PowerSubsystem"):
            subsystem = self._read(newer)
            for kind, name in (("PowerSupplies", "power supply"), ("Batteries", "battery")):
                for part in self._members(_link(subsystem, kind)):
                    yield f"{name} {part.get('Id', '')}", part
        elif older := _link(chassis, "Power"):
            for part in self._read(older).get("PowerSupplies") or []:
                yield f"power supply {part.get('MemberId', '')}", part

    def _members(self, collection: str) -> Iterator[Json]:
        """The resources of a collection; none where there is no collection."""
        for link in self._links(collection):
            yield self._read(link)

    def _links(self, collection: str) -> list[str]:
        if not collection:
            return []
        members = self._read(collection).get("Members") or []
        return [str(link["@odata.id"]).rstrip("/") for link in members[:_MOST_MEMBERS]]

    def _read(self, uri: str) -> Json:
        answer = self._get(uri)
        if answer.status == HTTPStatus.OK:
            return _json(answer)
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise Retryable("the controller has ended the session", where=self.endpoint)
        if answer.status == HTTPStatus.NOT_FOUND:
            raise Failed(f"the controller has no {uri}", where=self.endpoint)
        raise Retryable(f"answers {answer.status} for {uri}", where=self.endpoint)

    def _get(self, uri: str) -> RestResponse:
        try:
            return self._client.get(uri)
        except (RetriesExhaustedError, JsonDecodingError) as error:
            raise self._silence(error) from None

    def _demand_taken(self, answer: RestResponse, refusal: str) -> None:
        if answer.status < HTTPStatus.BAD_REQUEST:
            return
        said = messages(_json(answer)) or f"HTTP {answer.status}"
        if passes(answer.status) or answer.status == HTTPStatus.CONFLICT:
            raise Retryable(f"the controller is busy: {said}", where=self.endpoint)
        raise Failed(f"the controller {refusal}: {said}", where=self.endpoint)

    def _silence(self, error: BaseException) -> Retryable | BadInput:
        reason = str(error.__cause__ or error) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            return BadInput(
                "the management controller's certificate is not signed by a known authority",
                where=self.endpoint,
                mend="name who signed it: bmc.certificate_authority in the fleet file",
            )
        return Retryable(
            f"the management controller does not answer: {reason[:200]}",
            where=self.endpoint,
            mend="look whether it has power and network, then run the same again",
        )


def _system_authorities() -> str:
    paths = ssl.get_default_verify_paths()
    found = paths.cafile or paths.capath
    if not found:
        raise BadInput(
            "this machine has no certificate authorities",
            mend="name one: bmc.certificate_authority in the fleet file",
        )
    return found


def _link(resource: Json, name: str) -> str:
    found = resource.get(name)
    return str(found["@odata.id"]) if isinstance(found, Mapping) and "@odata.id" in found else ""


def _json(answer: RestResponse) -> Json:
    try:
        found = json.loads(answer.text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
