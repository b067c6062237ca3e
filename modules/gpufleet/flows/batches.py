"""What people and the batch API do with batches: plan, submit, look, cancel, take the results."""

import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from gpufleet.core import batch_jobs
from gpufleet.core.batch_requests import Parsed, checked_for, parse, shards
from gpufleet.flows.batch import BATCH, idle_at, new_batch
from gpufleet.flows.batch_files import Caller, content_of, put_input, table_of
from gpufleet.flows.ground import Ground, whoami
from gpufleet.flows.operations import new_id, resume, submit
from gpufleet.flows.operations import shown as flow_of
from gpufleet.local.files import write_private
from gpufleet.spec.batches import (
    Batch,
    BatchOrder,
    BatchPlan,
    BatchState,
    Priority,
    StoredFile,
)
from gpufleet.spec.errors import BadInput
from gpufleet.spec.quantities import Seconds

_SECONDS: TypeAdapter[float] = TypeAdapter(Seconds)
_OPEN = (BatchState.VALIDATING, BatchState.IN_PROGRESS)


@dataclass(frozen=True)
class Wish:
    """How a batch shall run."""

    use_case: str
    priority: Priority = Priority.NORMAL
    window_s: float = 86_400.0
    endpoint: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


def wish_of(use_case: str, priority: str, window: str) -> Wish:
    """A wish from the command line.

    Raises:
        BadInput: naming the option.
    """
    if priority not in set(Priority):
        known = ", ".join(Priority)
        raise BadInput("is no priority", where=f"--priority {priority}", mend=f"one of {known}")
    window_s = window_of(window, f"--window {window}")
    return Wish(use_case, Priority(priority), window_s)


def window_of(window: str, where: str) -> float:
    """A window such as `24h`, in seconds.

    Raises:
        BadInput: it is no duration, or from less than 10 minutes to more than 14 days.
    """
    try:
        window_s = _SECONDS.validate_python(window)
    except ValidationError:
        window_s = 0.0
    if not batch_jobs.SHORTEST_WINDOW_S <= window_s <= batch_jobs.LONGEST_WINDOW_S:
        raise BadInput("a window is from 10min to 14d long", where=where)
    return window_s


def read_file(path: str) -> bytes:
    """A file of requests.

    Raises:
        BadInput: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=path) from None


def plan(ground: Ground, wish: Wish, content: bytes, source: str) -> BatchPlan:
    """What a submission would do; changes nothing.

    Args:
        ground: the environment.
        wish: how it shall run.
        content: the file.
        source: its name in errors.

    Raises:
        BadInput: with each wrong line.
        PolicyRefused: the use case is interactive, or no batch pool serves it.
    """
    fleet = ground.fleet
    homes = batch_jobs.homes(fleet, wish.use_case)
    parsed = _good(ground, wish, content, source)
    pool = next(iter(homes.values()))
    output_max = fleet.use_cases[wish.use_case].tokens.output_max
    return BatchPlan(
        use_case=wish.use_case,
        pool=pool.name,
        model=pool.model_name,
        requests=len(parsed.heads),
        shards=len(shards(parsed.requests, pool.model_name, output_max)),
        gpus_per_shard=pool.gpus_per_replica,
        sites=idle_at(ground, homes),
        priority=wish.priority,
        window_s=wish.window_s,
    )


def submit_content(ground: Ground, wish: Wish, content: bytes, source: str) -> Batch:
    """Keep a file of requests and submit it, on behalf of whoever runs this task.

    Raises:
        BadInput, PolicyRefused: as `plan`; nothing is kept then.
        Retryable: no object store in the residency answers.
    """
    use_case = batch_jobs.batch_use_case(ground.fleet, wish.use_case)
    _good(ground, wish, content, source)
    caller = Caller(whoami(), use_case.team, frozenset({wish.use_case}))
    file = put_input(ground, caller, new_id("file", ground.clock()), source, content)
    return submit_file(ground, caller, wish, file, content)


def submit_file(
    ground: Ground, caller: Caller, wish: Wish, file: StoredFile, content: bytes
) -> Batch:
    """Submit a file that is kept already.

    Raises:
        BadInput, PolicyRefused: as `plan`.
    """
    homes = batch_jobs.homes(ground.fleet, wish.use_case)
    parsed = _good(ground, wish, content, file.filename)
    now = ground.clock()
    order = BatchOrder(
        id=new_id(BATCH, now),
        use_case=wish.use_case,
        team=caller.team,
        owner=caller.owner,
        pool=next(iter(homes.values())).name,
        priority=wish.priority,
        endpoint=wish.endpoint or parsed.endpoint,
        input_file=file.id,
        input_site=file.site,
        input_key=file.key,
        requests=len(parsed.heads),
        created_at=now,
        expires_at=now + timedelta(seconds=wish.window_s),
        metadata=wish.metadata,
    )
    table = table_of(ground)
    table.add_file(file.model_copy(update={"use_case": wish.use_case}))
    # The flow keeps track of itself: a kill between these two leaves nothing half done.
    submit(ground, BATCH, order.id, {"actor": caller.owner, "batch": order.model_dump(mode="json")})
    made = new_batch(order)
    table.add(made)
    return made


def listed(ground: Ground, *, only_open: bool = False) -> list[Batch]:
    """Every batch, newest first."""
    found = table_of(ground).listed()
    return [each for each in found if not (only_open and each.state.is_final)]


def shown(ground: Ground, id_: str) -> Batch:
    """One batch.

    Raises:
        BadInput: there is none with this id.
    """
    found = table_of(ground).find(id_)
    if found is None:
        raise BadInput("there is no such batch", where=id_, mend="./fleet batch.list shows them")
    return found


def cancel(ground: Ground, id_: str, actor: str) -> Batch:
    """Let a batch end; what was answered is kept. One that is being cancelled stays so.

    Raises:
        BadInput: there is no such batch, or it has ended.
    """
    before = shown(ground, id_)
    after = table_of(ground).change(
        id_, only_in=_OPEN, state=BatchState.CANCELLING, cancelling_at=ground.clock()
    )
    assert after is not None  # noqa: S101 - `shown` has found it
    if after.state is not BatchState.CANCELLING:
        raise BadInput(f"has ended: {after.state.value}", where=f"batch {id_}")
    if before.state is not BatchState.CANCELLING:
        ground.note("batch.cancelled", actor=actor, target=id_)
    if flow_of(ground, id_).state == "cancelled":
        # Somebody has stopped the flow itself, which is to put together what was answered.
        resume(ground, id_)
    return after


def results(ground: Ground, id_: str) -> tuple[Batch, bytes, bytes]:
    """A batch that has ended, with its answers and its errors as JSON lines.

    Raises:
        BadInput: there is no such batch, or it goes on.
        Failed: its files' time is over.
    """
    found = shown(ground, id_)
    if not found.state.is_final:
        raise BadInput(
            f"has not ended yet: it is {found.state.value}",
            where=f"batch {id_}",
            mend=f"./fleet flows.attach {id_} follows it",
        )
    return found, _content(ground, found.output_file), _content(ground, found.error_file)


def write_results(ground: Ground, id_: str, output: str, errors: str) -> Batch:
    """Write the files of a batch that has ended, whole or not at all.

    Args:
        ground: the environment.
        id_: of the batch.
        output: file for answers, or `-` for stdout.
        errors: file for errors; not written where it is empty.

    Raises:
        BadInput: as `results`; or a file cannot be written.
    """
    found, answers, failures = results(ground, id_)
    if output == "-":
        sys.stdout.buffer.write(answers)
        sys.stdout.flush()
    for path, content in ((output, answers), (errors, failures)):
        if path and path != "-":
            try:
                # Answers may be confidential: for their owner alone.
                write_private(Path(path), content)
            except OSError as error:
                raise BadInput(f"cannot be written: {error.strerror}", where=path) from None
    return found


def _content(ground: Ground, file: str | None) -> bytes:
    if file is None:
        return b""
    stored = table_of(ground).find_file(file)
    if stored is None:
        raise BadInput("was deleted when its retention ended", where=f"file {file}")
    return content_of(ground, stored)


def _good(ground: Ground, wish: Wish, content: bytes, source: str) -> Parsed:
    batch_jobs.demand_window(ground.fleet, wish.use_case, wish.window_s)
    output_max = ground.fleet.use_cases[wish.use_case].tokens.output_max
    parsed = checked_for(parse(content), wish.use_case, output_max, wish.endpoint)
    parsed.demand_good(source)
    return parsed
