"""Asks the gateway a question for each use case: the proof that an environment serves."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gpufleet.edges.gateway_client import GatewayClient
from gpufleet.edges.workspace import EnvironmentDir, Workspace
from gpufleet.flows.access import issue, revoke
from gpufleet.flows.environment import OnProgress
from gpufleet.flows.ground import Ground
from gpufleet.local.gateway_layout import GATEWAY
from gpufleet.local.platform import embedded_sites
from gpufleet.spec import Fleet
from gpufleet.spec.access import KeyRequest
from gpufleet.spec.errors import BadInput, FleetError, TargetMissed
from gpufleet.spec.progress import StepProgress
from gpufleet.spec.reports import AnswerRow
from gpufleet.spec.serving import Pool

ANSWER_WITHIN_S: Final = 300.0
"""The gateway itself starts meanwhile, and replicas load."""
QUESTION: Final = "Reply with one short sentence."
_MOST_TOKENS: Final = 16
_SILENCE_S: Final = 30.0
_KEY_LASTS_S: Final = 600.0
_PAUSE_S: Final = 0.5
_LOOK_EVERY_S: Final = 1.0
_AT_ONCE: Final = 8


@dataclass(frozen=True)
class GatewayAddress:
    """Where an environment's embedded gateway is, and whom its clients trust."""

    url: str
    authority: Path


def address_of(state: EnvironmentDir) -> GatewayAddress:
    """Where the embedded gateway is.

    Raises:
        Failed: it was never up.
    """
    url = f"https://127.0.0.1:{state.shared_port(GATEWAY)}"
    return GatewayAddress(url, state.gateway / "pki" / "ca.crt")


def reachable_use_cases(fleet: Fleet) -> list[str]:
    """The use cases that the embedded gateway has replicas for.

    Pods of a cluster elsewhere have addresses of its own network, and data stays in its residency.
    A placement without a steady replica answers only in a peak: none is waited for.
    """
    return _use_cases(fleet, least_replicas=1)


def use_cases_at_rest(fleet: Fleet) -> list[str]:
    """The use cases that the embedded gateway would have replicas for, of which none is steady."""
    asked = reachable_use_cases(fleet)
    return [name for name in _use_cases(fleet, least_replicas=0) if name not in asked]


def _use_cases(fleet: Fleet, least_replicas: int) -> list[str]:
    here = embedded_sites(fleet)

    def regions(pool: Pool) -> set[str]:
        at = {
            fleet.node_groups[group].site
            for group, placement in pool.placements.items()
            if placement.replicas >= least_replicas
        }
        return {fleet.sites[site].region for site in at.intersection(here)}

    return [
        name
        for pool in fleet.pools.values()
        for name in pool.use_cases
        if regions(pool).intersection(fleet.use_cases[name].residency)
    ]


def ask_each(
    ground: Ground, on_progress: OnProgress, failure: Callable[[], FleetError | None]
) -> list[AnswerRow]:
    """Ask for every use case until each was answered.

    Args:
        ground: the environment.
        on_progress: told how many are answered.
        failure: asked again and again why there is no use in waiting; None while there is.

    Raises:
        FleetError: the failure.
        TargetMissed: names those that were not answered in time, and why.
    """
    use_cases = reachable_use_cases(ground.fleet)
    if not use_cases:
        return []
    started = time.monotonic()
    at_rest = use_cases_at_rest(ground.fleet)
    not_asked = f"; without steady replicas, not asked: {', '.join(at_rest)}" if at_rest else ""

    def tell(done: int, state: str) -> None:
        elapsed_s = time.monotonic() - started
        detail = f"{done} of {len(use_cases)} use cases answered{not_asked}"
        on_progress(StepProgress("up", "gateway", state, elapsed_s, detail))

    stopped = threading.Event()
    with asked_with(ground, use_cases) as asking, ThreadPoolExecutor(_AT_ONCE) as threads:
        until = started + ANSWER_WITHIN_S
        futures = {
            name: threads.submit(asking.until_answered, name, until, stopped.is_set)
            for name in use_cases
        }
        tell(0, "running")
        try:
            while waiting := wait(futures.values(), timeout=_LOOK_EVERY_S).not_done:
                tell(len(futures) - len(waiting), "running")
                if error := failure():
                    raise error
        finally:
            stopped.set()
        tell(len(futures), "done")
    found = {name: future.result() for name, future in futures.items()}
    missed = {name: each for name, each in found.items() if isinstance(each, FleetError)}
    if missed:
        told = "; ".join(f"{name}: {error.what}" for name, error in missed.items())
        log = ground.state.logs / f"_-{GATEWAY}.log"
        raise TargetMissed(
            f"the gateway has not answered within {ANSWER_WITHIN_S:.0f} s for {told}",
            where=f"use case {next(iter(missed))}",
            mend=f"look: ./fleet gateway.status, ./fleet status, {log}",
        )
    return [each for each in found.values() if isinstance(each, AnswerRow)]


def ask(workspace: Workspace, fleet_file: Path, use_case: str, text: str) -> AnswerRow:
    """Ask one question for a use case, by the way that every client takes.

    Raises:
        BadInput: there is no such use case.
        Failed: the gateway was never up, or refuses.
        Retryable: it does not answer, or has no room now.
    """
    ground = Ground.open(workspace, fleet_file)
    try:
        if use_case not in ground.fleet.use_cases:
            known = ", ".join(ground.fleet.use_cases)
            raise BadInput(f"there is no use case `{use_case}`", mend=f"there are: {known}")
        address_of(ground.state)
        with asked_with(ground, [use_case]) as asking:
            return asking.once_known(use_case, text, time.monotonic() + _SILENCE_S)
    finally:
        ground.close()


@dataclass(frozen=True)
class Asking:
    """A client of the gateway, with a key for each use case."""

    client: GatewayClient
    keys: dict[str, str]

    def until_answered(
        self, use_case: str, until: float, stopped: Callable[[], bool]
    ) -> AnswerRow | FleetError:
        """Ask until an answer, a time of the monotonic clock or a stop; then the last error."""
        while True:
            try:
                return self._ask(use_case, QUESTION, _MOST_TOKENS)
            except FleetError as error:
                if stopped() or time.monotonic() > until:
                    return error
            time.sleep(_PAUSE_S)

    def once_known(self, use_case: str, text: str, until: float) -> AnswerRow:
        """Ask once the gateway knows the key, which was made a moment ago.

        Raises:
            FleetError: as `GatewayClient.ask`.
        """
        while True:
            try:
                return self._ask(use_case, text, None)
            except FleetError as error:
                if "401" not in error.what or time.monotonic() > until:
                    raise
            time.sleep(_PAUSE_S)

    def _ask(self, use_case: str, text: str, most_tokens: int | None) -> AnswerRow:
        answer = self.client.ask(use_case, text, self.keys[use_case], most_tokens)
        return AnswerRow(use_case=use_case, **vars(answer))


@contextmanager
def asked_with(
    ground: Ground,
    use_cases: Sequence[str],
    *,
    lasts_s: float = _KEY_LASTS_S,
    rate_rpm: int | None = None,
    on_issued: Callable[[str], None] | None = None,
) -> Iterator[Asking]:
    """A client with keys that are made for it, one for each team, and revoked at the end.

    Args:
        ground: the environment.
        use_cases: that are asked for.
        lasts_s: how long the keys are valid if nobody revokes them.
        rate_rpm: most requests of each key in a minute; no limit where it is not given.
        on_issued: told the id of each key, by which others can revoke it if this process ends.
    """
    address = address_of(ground.state)
    by_team: dict[str, list[str]] = {}
    for name in use_cases:
        by_team.setdefault(ground.fleet.use_cases[name].team, []).append(name)
    issued: list[str] = []
    keys: dict[str, str] = {}
    client = GatewayClient(address.url, address.authority, _SILENCE_S)
    try:
        for team, names in by_team.items():
            request = KeyRequest(
                team=team, use_cases=names, rate_rpm=rate_rpm, expires_in_s=lasts_s
            )
            made = issue(ground, request)
            issued.append(made.key.id)
            if on_issued:
                on_issued(made.key.id)
            keys |= dict.fromkeys(names, made.text)
        yield Asking(client, keys)
    finally:
        client.close()
        for id_ in issued:
            revoke(ground, id_)
