"""A batch: cut into shards, answered by a Job that waits for idle GPUs, put together again."""

import time
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final

from pydantic import JsonValue

from gpufleet.components.batch_pod import BatchWork, batch_job
from gpufleet.core import batch_answers, batch_jobs
from gpufleet.core import vocabulary as names
from gpufleet.core.batch_jobs import JobView, ShardKeys
from gpufleet.core.batch_records import records
from gpufleet.core.batch_requests import (
    BatchRequest,
    checked_for,
    ids_of,
    parse,
    read_shard,
    shards,
)
from gpufleet.core.serving import PoolAtSite
from gpufleet.edges.kube import Cluster, Object
from gpufleet.edges.kube_paths import collection_path
from gpufleet.flows.batch_audit import keep_records, served_by
from gpufleet.flows.batch_files import OUTPUT, store_of, table_of
from gpufleet.flows.durable import CancelledError, Run, flow
from gpufleet.flows.environment import cluster_of
from gpufleet.flows.ground import Ground
from gpufleet.flows.stores import stores_of
from gpufleet.spec.batches import Batch, BatchOrder, BatchState, IdleGpus, StoredFile
from gpufleet.spec.errors import Failed, FleetError, Retryable

BATCH: Final = "batch"
_JOBS: Final = collection_path("batch/v1", "Job", names.BATCH_NAMESPACE)
_QUEUES: Final = collection_path("kueue.x-k8s.io/v1beta1", "ClusterQueue", None)
_AFTER_WINDOW: Final = timedelta(hours=1)
_UNTIL_IT_ANSWERS: Final = timedelta(days=1)
"""What a batch has cost is not thrown away because a store or a cluster is away for some hours."""
_ENDS_WITHIN: Final = timedelta(minutes=10)
"""A Job's pods keep what they have until then, and end; those of a lost node are not waited for."""
_LOOK_EVERY_S: Final = 1.0
_GAPS: Final = {
    BatchState.COMPLETED: batch_answers.UNANSWERED,
    BatchState.EXPIRED: batch_answers.EXPIRED,
    BatchState.CANCELLED: batch_answers.CANCELLED,
}


@flow(BATCH)
def batch(run: Run, order: dict[str, Any]) -> dict[str, JsonValue]:
    """Answer a batch; each step finds what it has done before."""
    asked = BatchOrder.model_validate(order["batch"])
    work = _Work(run, asked)
    run.step("accepted", work.accept)
    run.note("batch.submitted", target=asked.use_case, requests=asked.requests, team=asked.team)
    window = max(timedelta(), asked.expires_at - run.ground.clock())
    try:
        site = run.step("site", work.choose, patience=window)
        sizes = run.step("shards", lambda: work.cut(site), patience=_UNTIL_IT_ANSWERS)
        run.note("batch.placed", target=site, shards=len(sizes))
        run.wait(
            "answers",
            lambda: work.awaited(site, sizes),
            within=window + _AFTER_WINDOW,
            late=lambda: Failed("its end was not seen", where=f"flow {run.id}"),
        )
        outcome = BatchState(
            run.step("outcome", lambda: work.outcome(site, sizes), patience=_UNTIL_IT_ANSWERS)
        )
        run.step("job ended", lambda: work.end_job(site), patience=_UNTIL_IT_ANSWERS)
        gone_by = run.step("job gone by", work.gone_by)
        run.wait(
            "job gone",
            lambda: work.left_of_job(site, datetime.fromisoformat(gone_by)),
            within=2 * _ENDS_WITHIN,
            late=lambda: Retryable("its end was not seen", where=f"flow {run.id}"),
        )
        result = run.step(
            "results", lambda: work.put_together(site, sizes, outcome), patience=_UNTIL_IT_ANSWERS
        )
        run.step("records", lambda: work.record(site, sizes, outcome), patience=_UNTIL_IT_ANSWERS)
        run.step("shards removed", lambda: work.remove_shards(site), patience=_UNTIL_IT_ANSWERS)
    except FleetError as error:
        state = work.give_up(error)
        run.note("batch.ended", target=asked.use_case, outcome=state, detail=str(error))
        raise
    counts = {name: result[name] for name in ("completed", "failed")}
    run.note("batch.ended", target=asked.use_case, outcome=result["state"], **counts)
    return result


def new_batch(order: BatchOrder) -> Batch:
    """A batch that the worker has not begun yet."""
    return Batch(**order.model_dump(), state=BatchState.VALIDATING)


def idle_at(ground: Ground, homes: dict[str, PoolAtSite]) -> list[IdleGpus]:
    """What each site of a use case has idle, best first; none of one that does not answer."""
    stores = stores_of(ground)
    found = []
    for site, pool in homes.items():
        gpus, reached = 0, site in stores
        if reached:
            try:
                cluster = cluster_of(ground.fleet, ground.state, site)
                queue = cluster.get(f"{_QUEUES}/{names.CLUSTER_QUEUE}")
                cluster.close()
                gpus, reached = batch_jobs.idle_gpus(queue, pool.group_name), queue is not None
            except FleetError:
                reached = False
        found.append(IdleGpus(site=site, node_group=pool.group_name, gpus=gpus, reached=reached))
    return batch_jobs.ranked(found)


class _Work:
    """The steps of one batch."""

    def __init__(self, run: Run, order: BatchOrder) -> None:
        self._run = run
        self._order = order
        self._ground = run.ground
        self._table = table_of(run.ground)
        self._bucket = batch_jobs.bucket_of(run.ground.fleet)
        self._clusters: dict[str, Cluster] = {}

    @cached_property
    def _homes(self) -> dict[str, PoolAtSite]:
        return batch_jobs.homes(self._ground.fleet, self._order.use_case)

    def accept(self) -> None:
        """Keep track of it."""
        self._table.add(new_batch(self._order))

    def choose(self) -> str:
        """The site with the most idle GPUs of batch quota, within the residency."""
        best = idle_at(self._ground, self._homes)[0]
        if not best.reached:
            raise Retryable("no site of its residency answers", where=f"batch {self._order.id}")
        return best.site

    def cut(self, site: str) -> list[int]:
        """Put the shards into the site's store; returns how many requests each has."""
        order, fleet = self._order, self._ground.fleet
        content = store_of(self._ground, order.input_site).get(self._bucket, order.input_key)
        output_max = fleet.use_cases[order.use_case].tokens.output_max
        parsed = checked_for(parse(content), order.use_case, output_max, order.endpoint)
        parsed.demand_good(order.input_file)
        store = store_of(self._ground, site)
        store.make_bucket(self._bucket)
        made = shards(parsed.requests, self._homes[site].model_name, output_max)
        for index, shard in enumerate(made):
            store.put(self._bucket, ShardKeys(order.id, index).requests, shard)
        self._table.change(
            order.id,
            only_in={BatchState.VALIDATING},
            state=BatchState.IN_PROGRESS,
            started_at=self._ground.clock(),
        )
        self._table.change(order.id, site=site, shards=len(made))
        return [shard.count(b"\n") for shard in made]

    def awaited(self, site: str, sizes: list[int]) -> str:
        """What is waited for; a Job that is not there is made."""
        if self._flagged():
            return ""
        job = self._job(site)
        if job is None:
            self._cluster(site).create(_JOBS, self._manifest(site, len(sizes)))
            return "its Job is made"
        view = JobView.of(job, len(sizes))
        if view.ended:
            return ""
        self._table.change(
            self._order.id,
            only_in={BatchState.IN_PROGRESS},
            completed=sum(sizes[index] for index in view.done),
        )
        return view.told

    def outcome(self, site: str, sizes: list[int]) -> str:
        """How it ends."""
        flagged = self._flagged()
        try:
            job = self._job(site)
        except Retryable:
            if not flagged:
                raise
            job = None
        view = JobView.of(job, len(sizes)) if job else None
        found = batch_jobs.outcome_of(
            view,
            cancelled=flagged is BatchState.CANCELLED,
            expired=flagged is BatchState.EXPIRED,
        )
        if found is None:
            raise Retryable("its Job is gone", where=f"batch {self._order.id}")
        self._table.change(
            self._order.id, state=BatchState.FINALIZING, finalizing_at=self._ground.clock()
        )
        return found.value

    def end_job(self, site: str) -> None:
        """Delete the Job, which is gone when its pods are: they keep their answers as they end."""
        self._cluster(site).delete(f"{_JOBS}/{self._order.id}?propagationPolicy=Foreground")

    def gone_by(self) -> str:
        """Until when its pods are waited for."""
        return (self._ground.clock() + _ENDS_WITHIN).isoformat()

    def left_of_job(self, site: str, until: datetime) -> str:
        """What of a deleted Job is waited for, until then; empty when its pods write no more."""
        if self._ground.clock() >= until or self._job(site) is None:
            return ""
        return "its pods keep their answers, and end"

    def put_together(
        self, site: str, sizes: list[int], outcome: BatchState
    ) -> dict[str, JsonValue]:
        """Write the files of answers and errors; returns the batch as it stands then."""
        order = self._order
        requests, answers = self._asked(site, sizes)
        custom_ids = ids_of(requests)
        merged = batch_answers.merged(order.id, custom_ids, answers, _GAPS[outcome])
        failed = outcome is BatchState.COMPLETED and not answers
        changed = self._table.change(
            order.id,
            state=BatchState.FAILED if failed else outcome,
            completed=merged.completed,
            failed=merged.failed,
            output_file=self._put_file(site, "output", merged.output),
            error_file=self._put_file(site, "errors", merged.errors),
            ended_at=self._ground.clock(),
            error="every pod of its Job failed" if failed else "",
        )
        assert changed is not None  # noqa: S101 - `accept` has kept it
        return changed.model_dump(mode="json")

    def record(self, site: str, sizes: list[int], outcome: BatchState) -> int:
        """Leave an audit record of each request; returns how many."""
        served = served_by(self._ground, self._order, self._homes[site])
        requests, answers = self._asked(site, sizes)
        lines = records(self._order, served, requests, answers, _GAPS[outcome])
        return keep_records(self._ground, self._order, lines)

    def _asked(
        self, site: str, sizes: list[int]
    ) -> tuple[list[BatchRequest], list[batch_answers.Line]]:
        """Every request, and the answers that its shards' pods have kept."""
        store = store_of(self._ground, site)
        requests: list[BatchRequest] = []
        answers: list[batch_answers.Line] = []
        for index in range(len(sizes)):
            keys = ShardKeys(self._order.id, index)
            requests += read_shard(store.get(self._bucket, keys.requests))
            found = store.find(self._bucket, keys.answers)
            if found is None:
                found = store.find(self._bucket, keys.partial)
            answers += batch_answers.read(found or b"")
        return requests, answers

    def remove_shards(self, site: str) -> None:
        """Delete what only the Job needed."""
        store = store_of(self._ground, site)
        prefix = batch_jobs.shards_prefix(self._order.id)
        store.delete(self._bucket, store.keys(self._bucket, prefix))

    def give_up(self, error: FleetError) -> str:
        """Free what a batch holds that goes no further; returns its state.

        What was answered stays where a store or a cluster was only away for too long.
        """
        known = self._table.find(self._order.id)
        if known and known.site:
            freed = [self.end_job]
            if not isinstance(error, Retryable):
                freed += [self._await_pods, self.remove_shards]
            for free in freed:
                try:
                    free(known.site)
                except FleetError as lost:
                    self._run.state("given up", "failed", lost.what)
        cancelled = isinstance(error, CancelledError)
        state = BatchState.CANCELLED if cancelled else BatchState.FAILED
        self._table.change(
            self._order.id,
            state=state,
            ended_at=self._ground.clock(),
            error="" if cancelled else str(error),
        )
        return state.value

    def _await_pods(self, site: str) -> None:
        """Wait for the end of a deleted Job's pods; no step, as a cancelled flow has no more."""
        until = self._ground.clock() + _ENDS_WITHIN
        while self.left_of_job(site, until):
            time.sleep(_LOOK_EVERY_S)

    def _flagged(self) -> BatchState | None:
        """Whether somebody has cancelled it, or its window is over."""
        known = self._table.find(self._order.id)
        if known and known.state in {BatchState.CANCELLING, BatchState.CANCELLED}:
            return BatchState.CANCELLED
        return BatchState.EXPIRED if self._ground.clock() >= self._order.expires_at else None

    def _put_file(self, site: str, kind: str, content: bytes) -> str | None:
        """Keep a file of the batch's results; None where it would be empty."""
        if not content:
            return None
        order, now = self._order, self._ground.clock()
        file = f"{order.id}-{kind}"
        kept_s = batch_jobs.kept_s(self._ground.fleet, [order.use_case])
        stored = StoredFile(
            id=file,
            team=order.team,
            use_case=order.use_case,
            owner=order.owner,
            filename=f"{file}.jsonl",
            purpose=OUTPUT,
            size_bytes=len(content),
            site=site,
            key=batch_jobs.file_key(file),
            created_at=now,
            expires_at=now + timedelta(seconds=kept_s),
        )
        store_of(self._ground, site).put(self._bucket, stored.key, content)
        self._table.add_file(stored)
        return file

    def _manifest(self, site: str, count: int) -> Object:
        fleet = self._ground.fleet
        store = fleet.sites[site].object_store
        work = BatchWork(
            fleet=fleet.slug,
            image=fleet.images.gpufleet,
            bucket=self._bucket,
            endpoint=store.endpoint if store else store_of(self._ground, site).endpoint,
            region=store.region if store else site,
            shards=count,
        )
        return batch_job(self._order, self._homes[site], work)

    def _job(self, site: str) -> Object | None:
        return self._cluster(site).get(f"{_JOBS}/{self._order.id}")

    def _cluster(self, site: str) -> Cluster:
        if site not in self._clusters:
            self._clusters[site] = cluster_of(self._ground.fleet, self._ground.state, site)
        return self._clusters[site]
