"""Flows that outlive their process: DBOS, with our errors, clock, leases and journal around it.

A flow is a function of a `Run` and plain JSON. It acts in steps: what a step returned is kept, and
not done again after a crash; a step that was cut short is done again, so that each step finds what
it has done already. A flow waits only through `Run.wait`.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from dbos import DBOS, DBOSClient
from dbos._serialization import Serializer
from pydantic import JsonValue

from gpufleet.core.leases import RENEW_EVERY
from gpufleet.edges.code_version import code_version
from gpufleet.edges.lease_table import LeaseLost
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.ground import Ground
from gpufleet.spec import errors
from gpufleet.spec.errors import Failed, FleetError, PolicyRefused, Retryable
from gpufleet.spec.fence import Fence
from gpufleet.spec.progress import Progress, StepProgress
from gpufleet.spec.records import Claim, Fact, Lease

EXECUTOR: Final = "executor:"
"""How the targets of the leases begin by which workers are known to live."""
QUEUE: Final = "flows"
APPLICATION: Final = "gpufleet"
WINDOW: Final = "window"
"""How the name of each wait for an opening of the calendars begins: `freeze.queue` finds it."""
PATIENCE: Final = timedelta(minutes=2)
"""How long a step tries again what may pass by itself."""
_FIRST_PAUSE: Final = timedelta(seconds=1)
_LONGEST_PAUSE: Final = timedelta(seconds=20)
_POLL_S: Final = 0.25
_LOOK_EVERY_S: Final = 1.0

T = TypeVar("T")
Body = Callable[["Run", dict[str, Any]], dict[str, JsonValue]]
_bodies: Final[dict[str, Body]] = {}


def flow(name: str) -> Callable[[Body], Body]:
    """Declare a flow that the worker runs under this name."""

    def declare(body: Body) -> Body:
        _bodies[name] = body
        return body

    return declare


class JsonSerializer(Serializer):
    """JSON alone, in place of pickle: whoever may write to the database runs no code here."""

    def serialize(self, data: Any) -> str:  # noqa: ANN401 - DBOS's own signature
        """As JSON; an exception by its sentence."""
        return json.dumps(data, default=_plain)

    def deserialize(self, serialized_data: str) -> Any:  # noqa: ANN401 - as above
        """From JSON."""
        return json.loads(serialized_data, object_hook=_lively)

    def name(self) -> str:
        """Kept beside each value."""
        return "gpufleet_json"


class CancelledError(Failed):
    """Somebody cancelled the flow; what was done is kept."""


class Run:
    """One flow under way in this worker.

    Args:
        ground: the environment.
        id: of the flow.
        actor: on whose behalf.
        host: the worker's part; it ends the process if another worker has taken its flows.
    """

    def __init__(
        self,
        ground: Ground,
        id: str,  # noqa: A002 - the field's name
        actor: str,
        host: "Host",
    ) -> None:
        self.ground = ground
        self.id = id
        self.actor = actor
        self._host = host
        self._told = ground.progress.teller(id)
        self.fences: dict[str, Fence] = {}
        self._started = time.monotonic()

    def step(self, name: str, work: Callable[[], T], *, patience: timedelta = PATIENCE) -> T:
        """Do something once; what may pass by itself is tried again for a while.

        Args:
            name: unique in the flow.
            work: returns plain JSON, and finds what an earlier try has done.
            patience: how long `Retryable` faults are tried again, from the first of them.

        Raises:
            FleetError: it failed for good.
            LeaseLost: another flow has taken what this one held.
        """

        def attempt() -> T:
            self._host.demand_own()
            for lease in self.fences.values():
                self.ground.leases.check(lease)
            self.state(name, "running")
            return self._persistently(name, work, patience)

        try:
            result: T = DBOS.run_step({"name": name}, attempt)
        except FleetError as error:
            state = "refused" if isinstance(error, PolicyRefused) else "failed"
            self.state(name, state, error.what)
            raise
        self.state(name, "done")
        return result

    def wait(
        self,
        name: str,
        look: Callable[[], str],
        *,
        within: timedelta,
        late: Callable[[], FleetError],
    ) -> None:
        """Wait until `look` has nothing more to wait for.

        Args:
            name: unique in the flow.
            look: says what is waited for; empty once it has come.
            within: how long, by the environment's clock, from the first time that this was asked.
            late: the error for when it has not come.

        Raises:
            FleetError: it has not come; or the flow was cancelled.
        """
        clock = self.ground.clock

        def deadline() -> str:
            return (clock() + within).isoformat()

        until = datetime.fromisoformat(self.step(f"{name}: deadline", deadline))

        def work() -> None:
            while waits_for := self._looked(look):
                self.state(name, "waiting", waits_for)
                if clock() >= until:
                    raise late()
                self._demand_not_cancelled()
                time.sleep(_LOOK_EVERY_S)

        self.step(name, work)

    @contextmanager
    def holding(self, target: str, *, within: timedelta) -> Iterator[Fence]:
        """Hold a lease; taken again, with a higher token, by whoever resumes the flow."""
        fence = self.take(target, within=within)
        try:
            yield fence
        finally:
            self.give_back(target)

    def take(self, target: str, *, within: timedelta) -> Fence:
        """Take a lease that this flow has not; it has to be given back.

        Raises:
            Retryable: somebody else holds it all that time.
        """
        claim = Claim(target=target, owner=self.id, holder=f"flow {self.id} for {self.actor}")
        asked = self.ground.clock()
        while target not in self.fences:
            try:
                self.fences[target] = self.ground.leases.acquire(claim)
            except Retryable as error:
                if self.ground.clock() - asked >= within:
                    raise
                self.state(f"lease {target}", "waiting", error.what)
                self._demand_not_cancelled()
                time.sleep(_LOOK_EVERY_S)
        return self.fences[target]

    def give_back(self, target: str) -> None:
        """Give a lease back, if this flow has it."""
        if fence := self.fences.pop(target, None):
            self.ground.leases.release(fence)

    def note(self, event: str, *, target: str = "", **body: JsonValue) -> None:
        """Write a fact into the journal, once however often the flow is resumed."""
        self.ground.journal.append(
            Fact(
                id=f"{self.id}:{event}:{target}",
                event=event,
                actor=self.actor,
                flow=self.id,
                target=target,
                body=body,
            )
        )

    def tell(self, event: Progress) -> None:
        """Tell whoever is attached; work goes on where nobody can be told."""
        with suppress(Retryable):
            self._told(event)

    def state(self, step: str, state: str, detail: str = "") -> None:
        """Tell whoever is attached."""
        elapsed_s = time.monotonic() - self._started
        self.tell(StepProgress(self.id, step, state, elapsed_s, detail))

    def _looked(self, look: Callable[[], str]) -> str:
        try:
            return look()
        except Retryable as error:
            return error.what

    def _persistently(self, name: str, work: Callable[[], T], patience: timedelta) -> T:
        pause = _FIRST_PAUSE
        # By steady time: a clock that is set back would make a pause of hours.
        until: float | None = None
        while True:
            try:
                return work()
            except Retryable as error:
                # Not from the begin: what has worked for an hour has a right to be tried again.
                until = until or time.monotonic() + patience.total_seconds()
                if time.monotonic() + pause.total_seconds() > until:
                    raise
                self.state(name, "waiting", f"{error.what}; again in {pause.seconds} s")
            again = time.monotonic() + pause.total_seconds()
            while time.monotonic() < again:
                self._demand_not_cancelled()
                time.sleep(_POLL_S)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _demand_not_cancelled(self) -> None:
        if self._host.is_cancelled(self.id):
            raise CancelledError("was cancelled", where=f"flow {self.id}")


class Host:
    """Runs flows in this process.

    Args:
        ground: the environment.
        executor: this process's id among all workers.
    """

    def __init__(self, ground: Ground, executor: str) -> None:
        self._ground = ground
        self._live = LiveGround(ground)
        self.executor = executor
        self._client = client(ground)
        self._runs: dict[str, Run] = {}
        self._watched: dict[str, tuple[datetime | None, float]] = {}
        self._fence: Fence | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Take this executor's lease, and begin to work on the queue.

        Raises:
            Retryable: the database does not answer.
        """
        ground = self._ground
        self._fence = ground.leases.acquire(
            Claim(target=f"{EXECUTOR}{self.executor}", owner=self.executor, holder=self.executor)
        )
        DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": ground.database.url.render_as_string(hide_password=False),
                "system_database_engine": ground.database.engine,
                "application_version": code_version(),
                "executor_id": self.executor,
                "serializer": JsonSerializer(),
                "log_level": "WARNING",
                "notification_listener_polling_interval_sec": 1.0,
            }
        )
        for name, body in _bodies.items():
            DBOS.workflow(name=name, max_recovery_attempts=None)(self._workflow(name, body))
        DBOS.launch()
        DBOS.register_queue(QUEUE, polling_interval_sec=_POLL_S)
        threading.Thread(target=self._renew, daemon=True, name="leases").start()

    def stop(self) -> None:
        """Take nothing new, and leave what runs to the next worker."""
        self._ended.set()
        DBOS.destroy()
        if self._fence:
            self._ground.leases.abandon(self._fence)

    def adopt(self) -> list[str]:
        """Take over the flows of executors that are gone; returns those executors.

        Only after their lease is ours: an executor that only seems dead then finds its lease lost,
        and ends before its next step.
        """
        taken = []
        for lease, is_dead in self._ground.leases.abandoned(EXECUTOR):
            gone = lease.target.removeprefix(EXECUTOR)
            if gone == self.executor or not (is_dead or self._is_silent(lease)):
                continue
            versions = self._left_by(gone)
            others = versions - {code_version()}
            if others and others == versions:
                # Its flows are another version's to replay.
                continue
            claim = Claim(target=lease.target, owner=self.executor, holder=self.executor)
            try:
                fence = self._ground.leases.acquire(claim)
            except Retryable:
                continue
            DBOS._recover_pending_workflows([gone])  # noqa: SLF001 - DBOS's only call for it
            if others:
                self._ground.leases.abandon(fence)
            else:
                self._ground.leases.forget(fence)
            taken.append(gone)
        return taken

    def _is_silent(self, lease: Lease) -> bool:
        """Whether a lease was not renewed while this process watched it long enough.

        Watched by this process's own steady time: when clocks jump, everybody's leases run out.
        """
        renewed_at, since = self._watched.get(lease.target, (None, 0.0))
        if renewed_at != lease.renewed_at:
            self._watched[lease.target] = (lease.renewed_at, time.monotonic())
            return False
        return time.monotonic() - since > 2 * RENEW_EVERY.total_seconds()

    def _left_by(self, executor: str) -> set[str]:
        """The versions of the code that an executor's unfinished flows were begun by."""
        left = self._client.list_workflows(
            executor_id=executor, status="PENDING", load_input=False, load_output=False
        )
        return {str(status.app_version) for status in left}

    def _workflow(self, name: str, body: Body) -> Callable[[dict[str, Any]], dict[str, JsonValue]]:
        def run(order: dict[str, Any]) -> dict[str, JsonValue]:
            id_ = DBOS.workflow_id
            assert id_ is not None  # noqa: S101 - always set inside a workflow
            current = Run(self._live.now(), id_, str(order.get("actor", "")), self)
            self._runs[id_] = current
            try:
                return body(current, order)
            except FleetError:
                raise
            except Exception:
                # DBOS keeps one line of it; the log keeps the rest.
                traceback.print_exc()
                raise
            finally:
                self._runs.pop(id_, None)

        run.__qualname__ = name
        return run

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_EVERY.total_seconds()):
            try:
                self.demand_own()
            except Retryable as error:
                sys.stderr.write(f"{error.what}\n")
                continue
            for run in list(self._runs.values()):
                for fence in list(run.fences.values()):
                    try:
                        self._ground.leases.renew(fence)
                    except FleetError:
                        # The flow finds out before its next step.
                        continue

    def is_cancelled(self, flow: str) -> bool:
        """Whether somebody has cancelled a flow that runs here."""
        [status] = self._client.list_workflows(
            workflow_ids=[flow], load_input=False, load_output=False
        )
        return status.status == "CANCELLED"

    def demand_own(self) -> None:
        """End the process if another worker has its flows: not one more step may be done here."""
        assert self._fence is not None  # noqa: S101 - set by `start`
        try:
            self._ground.leases.check(self._fence)
        except LeaseLost as error:
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(errors.EXIT_RETRYABLE)


def client(ground: Ground) -> DBOSClient:
    """What tasks submit to flows and manage them with; works before any worker has run."""
    schema = None if ground.database.url.drivername == "sqlite" else "dbos"
    if not ground.database.read(
        lambda found: sa.inspect(found).has_table("workflow_status", schema)
    ):
        DBOS.migrate(ground.database.url.render_as_string(hide_password=False))
    return DBOSClient(
        system_database_url=ground.database.url.render_as_string(hide_password=False),
        system_database_engine=ground.database.engine,
        serializer=JsonSerializer(),
        application_name=APPLICATION,
    )


def _plain(value: object) -> Mapping[str, Any]:
    if isinstance(value, FleetError):
        return {"$error": type(value).__name__, **value.as_json()}
    if isinstance(value, Exception):
        what = f"unexpected {type(value).__name__}: {str(value)[:500]}"
        return {"$error": "Failed", "error": what, "where": "", "mend": "see the worker's log"}
    raise TypeError(f"{type(value).__name__} is not plain JSON")


def _lively(value: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
    if "$error" not in value:
        return value
    kind = getattr(errors, str(value["$error"]), Failed)
    kind = kind if isinstance(kind, type) and issubclass(kind, FleetError) else Failed
    return kind(value["error"], where=value["where"], mend=value["mend"])
