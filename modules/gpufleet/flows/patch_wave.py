"""One wave of a patch: window, lease, batch after batch, recovery, soak."""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any, Final

from pydantic import JsonValue

from gpufleet.core.freeze import Purpose
from gpufleet.core.leases import lease_of
from gpufleet.core.patching.breaker import Action, decide
from gpufleet.core.patching.outcomes import (
    Judged,
    after_recovery,
    gone_back,
    judged,
    merged,
    quarantined,
    recovery,
)
from gpufleet.core.patching.waves import batch_refusal
from gpufleet.edges.clock import Watch
from gpufleet.edges.playbook_events import PlaybookResult
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.durable import WINDOW, Run
from gpufleet.flows.patch_gates import as_told, broken, read_gates, unanswered
from gpufleet.flows.patch_hosts import (
    PLAYBOOKS,
    QUARANTINE,
    ROLLBACK,
    Errand,
    run_errand,
)
from gpufleet.flows.patch_plan import closed, no_longer_declared
from gpufleet.flows.patch_story import PAUSED, Story
from gpufleet.flows.pool_load import load_of
from gpufleet.spec.errors import Failed, FleetError, PolicyRefused, Retryable
from gpufleet.spec.patching import HostOutcome, HostState, PatchPlan, Wave
from gpufleet.spec.progress import HostProgress

_WITHIN: Final = timedelta(days=400)
"""How long a patch waits for a window, for whoever paused it, or for another operator."""
_REFUSED_PAUSE: Final = timedelta(seconds=10)
"""Before a batch is tried again that the guard refused; longer after each try."""
_GATES_AWAY: Final = timedelta(minutes=15)
"""How long after a soak its gates are asked for; what nobody can answer counts as broken."""


_NOT_IN_A_NAME: Final = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclass(frozen=True)
class Patching:
    """What every wave of a patch needs."""

    run: Run
    plan: PatchPlan
    purpose: Purpose
    prometheus: str
    """Address of it at sites that are not embedded."""
    story: Story
    live: LiveGround
    """The environment as it is declared now, however long the patch has waited."""


class WaveRun:
    """One wave under way.

    Args:
        patching: of the patch.
        wave: which.
    """

    def __init__(self, patching: Patching, wave: Wave) -> None:
        self._run = patching.run
        self._plan = patching.plan
        self._patching = patching
        self._story = patching.story
        self._wave = wave
        self._name = f"wave {wave.number}"
        self._begun_at = patching.run.ground.clock()
        self._found: list[Judged] = []

    def work(self) -> str:
        """Do all of it; returns what stopped the patch, empty where it may go on.

        Raises:
            FleetError: it cannot go on; no host is left serving unproven.
        """
        begun = self._run.step(f"{self._name}: begun", self._now)
        self._begun_at = datetime.fromisoformat(begun)
        try:
            stopped = self._batches() or self._soak()
            if stopped:
                self._go_back()
            self._tell(self._name, stopped)
        finally:
            self._let_go()
        states: dict[str, JsonValue] = {each.host: each.state.value for each in self._found}
        self._run.note("patch.wave_ended", target=self._name, stopped_by=stopped, hosts=states)
        return stopped

    def _batches(self) -> str:
        """Batch after batch, until one of them or a person stops it; returns why."""
        for number, hosts in enumerate(self._wave.batches, 1):
            label = f"{self._name} batch {number}"
            if stopped := self._may_begin(label, hosts):
                return stopped
            if number == 1:
                whole: list[JsonValue] = [*self._wave.hosts]
                self._run.note("patch.wave_begun", target=self._name, hosts=whole)
            self._tell(f"{label}: begun", running=hosts)
            found = self._batch(label, hosts)
            if found is None:
                return self._stop_wish(f"{label}: refused and stopped")
            self._found += found
            self._tell(label)
            self._recover(label, found, stopped=False)
            if tripped := self._tripped():
                return tripped
        return ""

    def _may_begin(self, label: str, hosts: Sequence[str]) -> str:
        """Wait until a batch may begin; returns who has stopped the patch instead."""
        self._wait_open(f"{WINDOW}: {label}", hosts)
        return self._stop_wish(f"{label}: not stopped")

    def _wait_open(self, name: str, hosts: Sequence[str]) -> None:
        """Wait until nothing holds these hosts back; or somebody has stopped the patch.

        Whoever waits holds no lease: what is urgent need not wait for a patch that is paused, or
        for the night that it waits for.
        """
        run = self._run

        def look() -> str:
            stopped_by = run.ground.patches.wishes(run.id)[1]
            why = "" if stopped_by else self._held_back(hosts)
            if why:
                self._let_go()
            return self._story.waits(name, why)

        run.wait(
            name,
            look,
            within=_WITHIN,
            late=lambda: PolicyRefused("could not begin in 400 days", where=f"flow {run.id}"),
        )

    def _held_back(self, hosts: Sequence[str]) -> str:
        """Why a batch may not begin; empty once it may, and its site's lease is taken."""
        if paused_by := self._run.ground.patches.wishes(self._run.id)[0]:
            return f"{PAUSED} by {paused_by}"
        try:
            if why := self._why_not(hosts):
                return why
            if all(site in self._run.fences for site in self._leases(hosts)):
                return ""
            self._take(hosts, timedelta())
            # Whoever had it may have changed what the first look found.
            return self._why_not(hosts)
        except FleetError as error:
            return error.what

    def _why_not(self, hosts: Sequence[str]) -> str:
        """What the freezes say, and the load of the pools, by the fleet file as it is now."""
        plan, purpose = self._plan, self._patching.purpose
        ground = self._patching.live.now()
        changes = [plan.hosts[host] for host in hosts]
        if why := no_longer_declared(ground.fleet, changes):
            return why
        if why := closed(self._run, ground, plan, hosts, purpose):
            return why
        sites = {change.site for change in changes if change.pools}
        return batch_refusal(changes, load_of(ground, sites))

    def _leases(self, hosts: Iterable[str]) -> list[str]:
        return sorted({lease_of(self._plan.hosts[host].site) for host in hosts})

    def _take(self, hosts: Iterable[str], within: timedelta = _WITHIN) -> None:
        """Take the leases of hosts' sites, those that this flow has not."""
        for lease in self._leases(hosts):
            self._run.take(lease, within=within)

    def _let_go(self) -> None:
        for lease in self._leases(self._wave.hosts):
            self._run.give_back(lease)

    def _stop_wish(self, name: str) -> str:
        stopped_by = self._run.step(name, lambda: self._run.ground.patches.wishes(self._run.id)[1])
        return f"stopped by {stopped_by}" if stopped_by else ""

    def _batch(self, label: str, hosts: Sequence[str]) -> list[Judged] | None:
        """Patch the hosts of a batch; None where somebody stopped it before it could begin."""
        for attempt in count(1):
            name = label if attempt == 1 else f"{label} try {attempt}"
            answer = self._run.step(name, lambda: self._patch(name, hosts))  # noqa: B023 - at once
            if not answer["refused"]:
                return [Judged.model_validate(each) for each in answer["hosts"]]
            # The guard met a freeze that the flow had not seen: it began in between.
            self._pause(f"{name}: refused", answer["refused"], _REFUSED_PAUSE * attempt)
            if self._may_begin(f"{name} again", hosts):
                break
        return None

    def _pause(self, name: str, why: str, lasts: timedelta) -> None:
        """Let some time pass; whoever stops the patch need not wait for it."""
        run = self._run
        until = datetime.fromisoformat(run.step(f"{name} at", self._now)) + lasts

        def look() -> str:
            over = run.ground.clock() >= until or run.ground.patches.wishes(run.id)[1]
            return self._story.waits(name, "" if over else why)

        run.wait(name, look, within=_WITHIN, late=lambda: PolicyRefused(why))

    def _patch(self, name: str, hosts: Sequence[str]) -> dict[str, Any]:
        plan = self._plan
        playbook = PLAYBOOKS[plan.order.component]
        begun = time.monotonic()
        result = self._errand(name, playbook, hosts, plan.order.version, self._patching.purpose)
        if refusal := result.refusal:
            if not refusal.may_pass:
                raise Failed(refusal.reason, where=f"{name} of flow {self._run.id}")
            return {"refused": refusal.reason, "hosts": []}
        self._keep_duration(name, result, begun)
        found = [judged(plan.hosts[host], result.hosts[host]) for host in hosts]
        self._saw(found)
        return {"refused": "", "hosts": [each.model_dump(mode="json") for each in found]}

    def _recover(self, label: str, found: Sequence[Judged], *, stopped: bool) -> None:
        """Bring back, or quarantine, what cannot stay as it is."""
        need = recovery(found, can_go_back=self._plan.can_go_back, stopped=stopped)
        if not need.is_needed:
            return
        by_host = {each.host: each for each in found}
        returned: list[Judged] = []
        for number, (version, hosts) in enumerate(need.back.items(), 1):
            name = f"{label}: back to {version}"
            olds = [by_host[host] for host in hosts]
            returned += self._changed(
                name,
                ROLLBACK,
                olds,
                version,
                Purpose.ROLLBACK,
                after=gone_back,
                # Short, however long a package's version is.
                timed=f"{label}: back {number}",
            )
        self._found = merged(self._found, returned)
        lost = [*need.quarantine, *after_recovery(returned)]
        if lost:
            olds = [each for each in self._found if each.host in lost]
            version = self._plan.order.version
            name = f"{label}: quarantine"
            ended = self._changed(
                name, QUARANTINE, olds, version, Purpose.QUARANTINE, after=quarantined
            )
            self._found = merged(self._found, ended)
        self._tell(f"{label}: recovered")

    def _changed(  # noqa: PLR0913 - what is run on which hosts, and what it means
        self,
        name: str,
        playbook: str,
        olds: Sequence[Judged],
        version: str,
        purpose: Purpose,
        *,
        after: Callable[[Judged, Any], Judged],
        timed: str = "",
    ) -> list[Judged]:
        """Run a playbook on hosts that were judged before, and judge them anew."""
        hosts = [each.host for each in olds]

        def work() -> list[JsonValue]:
            begun = time.monotonic()
            result = self._errand(name, playbook, hosts, version, purpose)
            if timed:
                self._keep_duration(timed, result, begun, is_rollback=True)
            found = [after(old, result.hosts[old.host]) for old in olds]
            self._saw(found)
            return [each.model_dump(mode="json") for each in found]

        answer = self._run.step(name, work)
        found = [Judged.model_validate(each) for each in answer]
        for each in found:
            self._run.note(
                f"patch.{purpose.value}",
                target=each.host,
                state=each.state.value,
                why=each.outcome.error,
                version=version,
            )
        return found

    def _keep_duration(
        self, key: str, result: PlaybookResult, begun: float, *, is_rollback: bool = False
    ) -> None:
        """Remember how long a run took, by steady time; what a killed worker began took longer."""
        seconds = max((each.seconds for each in result.hosts.values()), default=0.0)
        spent_s = round(max(seconds, time.monotonic() - begun), 1)
        part = self._plan.order.part
        self._run.ground.patches.keep_duration(
            self._run.id, key, part, spent_s, is_rollback=is_rollback
        )

    def _saw(self, found: Sequence[Judged]) -> None:
        """Tell how hosts stand, and remember which versions they were seen with."""
        for each in found:
            state, took_s = each.state.value, each.outcome.seconds
            error = each.outcome.error
            self._run.tell(HostProgress(each.host, self._wave.number, state, error, took_s))
        table, now = self._run.ground.host_versions, self._run.ground.clock()
        for each in found:
            flow = self._run.id if each.proven and not each.is_bad else ""
            table.saw(each.host, {self._plan.order.part.value: each.outcome.after}, now, flow)

    def _errand(
        self, name: str, playbook: str, hosts: Sequence[str], version: str, purpose: Purpose
    ) -> PlaybookResult:
        # Whoever goes on with a killed flow finds the wait over, and has no lease yet.
        self._take(hosts)
        label = _NOT_IN_A_NAME.sub("-", name)
        reasons = {each.outcome.error for each in self._found if each.host in hosts}
        reason = "; ".join(sorted(filter(None, reasons)))
        errand = Errand(label, playbook, hosts, version, purpose, self._wave.number, reason)
        return run_errand(self._run, self._plan, errand)

    def _tripped(self) -> str:
        """Why the breaker stops the wave; empty where it does not."""
        outcomes = [each.outcome for each in self._found]
        order, back = self._plan.order, self._plan.can_go_back
        decision = decide(order, outcomes, can_go_back=back)
        if decision.action is Action.GO_ON:
            return ""
        told = [f"{each.host}: {each.outcome.error}" for each in self._found if each.is_bad]
        return ": ".join([decision.reason, *told[:1]])

    def _soak(self) -> str:
        """Wait while the gates hold; returns which of them did not."""
        if not any(each.state is HostState.DONE for each in self._found):
            return ""
        self._take(self._wave.hosts)
        run, number = self._run, self._wave.number
        lasts = timedelta(seconds=self._plan.order.soak_s)
        begun = datetime.fromisoformat(run.step(f"{self._name}: soak begun", self._now))
        watch = Watch()

        def look() -> str:
            if run.ground.patches.wishes(run.id)[1]:
                return ""
            # A clock that is set on the way makes a soak neither shorter nor longer.
            now, until = run.ground.clock(), begun + lasts + watch.jumped()
            try:
                verdicts = read_gates(run.ground, self._plan.gates, self._patching.prometheus)
            except Retryable as error:
                if now < until + _GATES_AWAY:
                    return error.what
                verdicts = unanswered(self._plan.gates, error.what)
            told = as_told(verdicts)
            self._story.gates(number, told)
            if broken(told) or now >= until:
                return ""
            return f"it soaks until {until:%Y-%m-%d %H:%M:%S %Z}, {len(told)} gates hold"

        run.wait(
            f"{self._name}: soak",
            look,
            within=_WITHIN,
            late=lambda: Retryable("its soak did not end", where=f"flow {run.id}"),
        )
        faults = run.step(f"{self._name}: gates", lambda: broken(self._story.gates_of(number)))
        if faults:
            return faults
        return self._stop_wish(f"{self._name}: not stopped")

    def _go_back(self) -> None:
        """Bring back what of the wave was patched, batch by batch as it was planned."""
        for number, hosts in enumerate(self._wave.batches, 1):
            found = [
                each for each in self._found if each.host in hosts and each.state is HostState.DONE
            ]
            self._recover(f"{self._name} batch {number}: undone", found, stopped=True)

    def _tell(self, after: str, stopped_by: str = "", running: Sequence[str] = ()) -> None:
        """Keep what came of the wave so far; a step, so that a replay does not tell it again."""
        outcomes = [HostOutcome(host=host, state=HostState.RUNNING) for host in running]
        outcomes += [each.outcome for each in self._found]

        def work() -> None:
            number, begun_at = self._wave.number, self._begun_at
            self._story.wave(number, begun_at, outcomes, stopped_by=stopped_by)

        self._run.step(f"{after}: told", work)

    def _now(self) -> str:
        return self._run.ground.clock().isoformat()
