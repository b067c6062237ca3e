"""Whether service was back in time, how drills go over time, and what is expected of the next."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final

from gpufleet.core.snapshots.prediction import Rates, Work
from gpufleet.core.snapshots.prediction import outlook as restore_outlook
from gpufleet.spec.drills import (
    DrillReport,
    DrillState,
    Outlook,
    Phase,
    PhaseTime,
    Tally,
    Trend,
    UseCaseRecovery,
)

HISTORY: Final = 5
"""Drills whose times tell what the next one takes: the newest ones."""


def tally(found: Sequence[UseCaseRecovery]) -> Tally:
    """A drill in few numbers, from the use case with the least left of its objective.

    One that did not come back has nothing left. With the numbers of this one, `met` is what they
    say of all: if it was in time, so were the others.

    Args:
        found: at least one.
    """

    def left(each: UseCaseRecovery) -> tuple[bool, bool, float]:
        back = each.recovered_s is not None
        return (
            back,
            each.met,
            each.rto_s - each.recovered_s if each.recovered_s is not None else 0.0,
        )

    nearest = min(found, key=left)
    return Tally(
        use_case=nearest.use_case,
        recovered_s=nearest.recovered_s,
        rto_s=nearest.rto_s,
        rpo_s=nearest.rpo_s,
        lost_s=nearest.lost_s,
        met=all(each.met for each in found),
    )


def trends(reports: Iterable[DrillReport]) -> list[Trend]:
    """How the ended drills of each scenario and target went, the latest first.

    Those for real, and those in isolation, have a trend each.
    """
    by_kind: defaultdict[tuple[str, str, bool], list[DrillReport]] = defaultdict(list)
    for report in reports:
        if report.state in {DrillState.MET, DrillState.MISSED}:
            kind = report.scenario, report.target, report.for_real is not None
            by_kind[kind].append(report)
    found = []
    for (scenario, target, for_real), drills in by_kind.items():
        drills.sort(key=lambda drill: drill.begun_at)
        times = [drill.recovered_s for drill in drills if drill.recovered_s is not None]
        last = drills[-1]
        earlier = times[:-1] if last.recovered_s is not None else times
        proven = [drill.begun_at for drill in drills if drill.met]
        found.append(
            Trend(
                scenario=scenario,
                target=target,
                for_real=for_real,
                drills=len(drills),
                met=len(proven),
                last_at=last.begun_at,
                last_s=last.recovered_s,
                best_s=min(times, default=None),
                worst_s=max(times, default=None),
                change_s=last.recovered_s - median(earlier)
                if earlier and last.recovered_s is not None
                else None,
                proven_at=max(proven, default=None),
            )
        )
    return sorted(found, key=lambda trend: trend.last_at, reverse=True)


def predicted(
    earlier: Iterable[DrillReport],
    model: Mapping[Phase, float],
    *,
    rto_s: float,
    restore: tuple[Work, Rates] | None = None,
) -> Outlook:
    """How long a drill is expected to take, and what would hold the objective if it is too long.

    Args:
        earlier: drills of the same scenario and target; the medians of whole ones count.
        model: seconds of each phase where there was no drill yet.
        rto_s: the shortest recovery time objective.
        restore: what has to be fetched, and how fast; for what would hold the objective.
    """
    whole = [
        {each.phase: each.seconds for each in drill.phases}
        for drill in sorted(earlier, key=lambda drill: drill.begun_at)
        if drill.workers == 1 and {each.phase for each in drill.phases} == set(Phase)
    ][-HISTORY:]
    times = (
        {phase: median(drill[phase] for drill in whole) for phase in Phase}
        if whole
        else {phase: model.get(phase, 0.0) for phase in Phase}
    )
    total_s = sum(times.values())
    source = f"the last {len(whole)} drills" if whole else "the fleet file: there was no drill yet"
    return Outlook(
        phases=[PhaseTime(phase=phase, seconds=round(times[phase], 2)) for phase in Phase],
        recovered_s=round(total_s, 2),
        rto_s=rto_s,
        source=source,
        remedies=[] if total_s <= rto_s else _remedies(times, rto_s, restore),
    )


def _remedies(
    times: Mapping[Phase, float], rto_s: float, restore: tuple[Work, Rates] | None
) -> list[str]:
    """What would hold the objective: less of what takes longest, or what the restore needs."""
    total_s = sum(times.values())
    longest = max(times, key=lambda phase: times[phase])
    over_s = total_s - rto_s
    found = []
    if restore is not None and longest is Phase.ARTIFACTS:
        work, rates = restore
        before = sum(times[phase] for phase in (Phase.DETECT, Phase.DECIDE, Phase.PROVISION))
        after = times[Phase.LOAD] + times[Phase.FIRST_TOKEN]
        told = restore_outlook(
            Work(work.bytes_fetched, before_s=before, after_s=after, objects=work.objects),
            rates,
            rto_s=rto_s,
            whole_bytes=work.bytes_fetched,
        )
        found += list(told.remedies)
    elif times[longest] >= over_s:
        found.append(
            f"{over_s:.0f} s less of `{longest.value}`, which takes {times[longest]:.0f} s"
        )
    if not any(remedy.startswith("an objective") for remedy in found):
        found.append(f"an objective of {-int(-total_s // 1)} s")
    return found
