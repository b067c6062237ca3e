"""OpenAI's files and batches for callers of the gateway: each sees its own team's alone.

A caller sees a batch and its files only while its key is scoped to their use case; a file that no
batch has used yet is for the key alone that brought it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from gpufleet.core import batch_api as api
from gpufleet.core import batch_jobs
from gpufleet.core.batch_api import ApiRefused, Json
from gpufleet.core.batch_requests import MOST_BYTES, Parsed, checked_for, parse
from gpufleet.flows.batch_files import Caller, content_of, put_input, remove, table_of
from gpufleet.flows.batches import Wish, cancel, submit_file, window_of
from gpufleet.flows.ground import Ground
from gpufleet.flows.operations import new_id
from gpufleet.spec.batches import Batch, Priority, StoredFile
from gpufleet.spec.errors import FleetError


def create_file(
    ground: Ground, caller: Caller, filename: str, purpose: str, content: bytes
) -> Json:
    """Keep a file of requests; its lines are checked when a batch uses it.

    Raises:
        ApiRefused: what is wrong with it.
    """
    api.demand_upload(filename, purpose)
    if len(content) > MOST_BYTES:
        message = f"'file' is larger than {MOST_BYTES // 2**20} MiB."
        raise ApiRefused(413, "file_too_large", message, "file")
    with _told():
        file = new_id("file", ground.clock())
        return api.file_object(put_input(ground, caller, file, filename, content))


def list_files(ground: Ground, caller: Caller, after: str = "", limit: int = api.LISTED) -> Json:
    """The caller's files, newest first.

    Raises:
        ApiRefused: `after` or `limit` is none.
    """
    with _told():
        mine = [file for file in table_of(ground).files(caller.team) if _may_see(caller, file)]
    found, has_more = api.page(mine, after, limit)
    return api.list_object(map(api.file_object, found), has_more=has_more)


def retrieve_file(ground: Ground, caller: Caller, file: str) -> Json:
    """One file.

    Raises:
        ApiRefused: the caller has no such file.
    """
    with _told():
        return api.file_object(_file(ground, caller, file))


def file_content(ground: Ground, caller: Caller, file: str) -> bytes:
    """What is in a file.

    Raises:
        ApiRefused: the caller has no such file, or its store does not answer.
    """
    with _told():
        return content_of(ground, _file(ground, caller, file))


def delete_file(ground: Ground, caller: Caller, file: str) -> Json:
    """Delete a file.

    Raises:
        ApiRefused: the caller has no such file; or a batch that goes on needs it.
    """
    with _told():
        found = _file(ground, caller, file)
        needing = (each for each in table_of(ground).listed(team=caller.team))
        if any(each.input_file == file and not each.state.is_final for each in needing):
            raise ApiRefused(409, "file_in_use", "A batch that goes on needs this file.")
        remove(ground, found)
        ground.note("batch.file.deleted", actor=caller.owner, target=file)
    return api.deleted_object(file)


def create_batch(ground: Ground, caller: Caller, body: object) -> Json:
    """Submit a file that was uploaded.

    Raises:
        ApiRefused: what is wrong with the request or a line of the file.
    """
    asked = api.batch_asked(body)
    with _told():
        window_s = window_of(asked.window, "'completion_window'")
        file = _file(ground, caller, asked.input_file)
        content = content_of(ground, file)
        parsed = parse(content)
        _demand_good(parsed)
        use_case = _use_case(ground, caller, parsed)
        output_max = ground.fleet.use_cases[use_case].tokens.output_max
        _demand_good(checked_for(parsed, use_case, output_max, asked.endpoint))
        wish = Wish(use_case, _priority(asked), window_s, asked.endpoint, asked.metadata)
        return api.batch_object(submit_file(ground, caller, wish, file, content))


def retrieve_batch(ground: Ground, caller: Caller, batch: str) -> Json:
    """One batch.

    Raises:
        ApiRefused: the caller has no such batch.
    """
    with _told():
        return api.batch_object(_batch(ground, caller, batch))


def list_batches(ground: Ground, caller: Caller, after: str = "", limit: int = api.LISTED) -> Json:
    """The caller's batches, newest first.

    Raises:
        ApiRefused: `after` or `limit` is none.
    """
    with _told():
        mine = table_of(ground).listed(team=caller.team, use_cases=caller.use_cases)
    found, has_more = api.page(mine, after, limit)
    return api.list_object(map(api.batch_object, found), has_more=has_more)


def cancel_batch(ground: Ground, caller: Caller, batch: str) -> Json:
    """Let a batch end; what was answered is kept.

    Raises:
        ApiRefused: the caller has no such batch, or it has ended.
    """
    with _told():
        if _batch(ground, caller, batch).state.is_final:
            raise ApiRefused(409, "batch_ended", "The batch has ended.")
        return api.batch_object(cancel(ground, batch, caller.owner))


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except FleetError as error:
        raise api.refused(error) from error


def _demand_good(parsed: Parsed) -> None:
    if parsed.problems:
        raise api.wrong_lines(parsed.problems)


def _use_case(ground: Ground, caller: Caller, parsed: Parsed) -> str:
    """The one that every line names; or the only one that the caller's key is for."""
    mine = [name for name in batch_jobs.batch_use_cases(ground.fleet) if name in caller.use_cases]
    named = parsed.models or set(mine)
    if len(named) != 1:
        message = f"Every line has to name the same model, one of: {', '.join(mine)}."
        raise ApiRefused(400, "mismatched_model", message, "body.model")
    [use_case] = named
    if use_case not in caller.use_cases:
        message = f"This key may not use the model '{use_case:.60}'."
        raise ApiRefused(403, "model_not_allowed", message, "body.model")
    return use_case


def _priority(asked: api.BatchAsked) -> Priority:
    given = asked.metadata.get(api.PRIORITY, Priority.NORMAL.value)
    if given not in set(Priority):
        message = f"'metadata.{api.PRIORITY}' has to be one of {', '.join(Priority)}."
        raise ApiRefused(400, "invalid_value", message, "metadata")
    return Priority(given)


def _file(ground: Ground, caller: Caller, id_: str) -> StoredFile:
    found = table_of(ground).find_file(id_)
    if found is None or not _may_see(caller, found):
        raise api.not_found("file", id_)
    return found


def _may_see(caller: Caller, file: StoredFile) -> bool:
    if file.use_case is None:
        return (file.team, file.owner) == (caller.team, caller.owner)
    return file.team == caller.team and file.use_case in caller.use_cases


def _batch(ground: Ground, caller: Caller, id_: str) -> Batch:
    found = table_of(ground).find(id_)
    if found is None or found.team != caller.team or found.use_case not in caller.use_cases:
        raise api.not_found("batch", id_)
    return found
