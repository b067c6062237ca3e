"""API keys: issued, rotated, revoked, and told to the gateway.

A freeze holds none of it: it changes who may ask, and nothing that serves. Whoever has a key that
leaked must not wait for a window.
"""

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from gpufleet.core.gateway.keys import ID_ALPHABET, ID_LENGTH, SECRET_BYTES, split_key, written
from gpufleet.edges.gateway_files import confirm, publish, read_published
from gpufleet.edges.key_table import KeyTable
from gpufleet.flows.ground import Ground, whoami
from gpufleet.spec.access import ApiKey, IssuedKey, KeyRequest
from gpufleet.spec.errors import BadInput
from gpufleet.spec.fleet import Fleet
from gpufleet.spec.gateway import KEYS_FILE, Key, Keys

OVERLAP: Final = timedelta(hours=1)
"""How long a key that was rotated stays valid where nobody says otherwise."""
_LIST: Final = "./fleet access.list"


def check(fleet: Fleet, request: KeyRequest) -> None:
    """Refuse a key for what its team does not own.

    Raises:
        BadInput: no such team or use case, or another team's.
    """
    if request.team not in fleet.teams:
        known = ", ".join(sorted(fleet.teams))
        raise BadInput(f"there is no team {request.team!r}", where="--team", mend=f"one of {known}")
    own = sorted(name for name, case in fleet.use_cases.items() if case.team == request.team)
    for name in request.use_cases:
        if name not in own:
            mend = f"its own: {', '.join(own) or 'none'}"
            what = f"{name!r} is no use case of team {request.team}"
            raise BadInput(what, where="--use-cases", mend=mend)


def issue(ground: Ground, request: KeyRequest) -> IssuedKey:
    """Issue a key; its text is in the answer and nowhere else.

    Raises:
        BadInput: as `check`.
        Retryable: the database does not answer.
    """
    check(ground.fleet, request)
    now = ground.clock()
    lasts = timedelta(seconds=request.expires_in_s) if request.expires_in_s else None
    issued = _made(request, now, now + lasts if lasts else None)
    _keys(ground).add(issued.key)
    _note(ground, "access.issued", issued.key)
    return issued


def listed(ground: Ground) -> list[ApiKey]:
    """Every key that was ever issued, oldest first."""
    return _keys(ground).all()


def found(ground: Ground, id: str) -> ApiKey:  # noqa: A002 - the field's name
    """A key by its id.

    Raises:
        BadInput: there is none.
    """
    key = _keys(ground).find(id)
    if key is None:
        raise BadInput("there is no such key", where=f"key {id[:20]!r}", mend=_LIST)
    return key


def replaceable(ground: Ground, id: str) -> ApiKey:  # noqa: A002 - the field's name
    """A key that may be rotated.

    Raises:
        BadInput: there is none, it is not valid any more, or its team has lost a use case of it.
    """
    key = found(ground, id)
    if not key.is_valid(ground.clock()):
        what = "it is not valid any more: issue a new one"
        raise BadInput(what, where=f"key {id}", mend="./fleet access.issue --help")
    check(ground.fleet, KeyRequest(team=key.team, use_cases=key.use_cases))
    return key


def rotate(ground: Ground, id: str, overlap: timedelta = OVERLAP) -> IssuedKey:  # noqa: A002 - as above
    """Issue the successor of a key: the same rights and lifetime, counted from now.

    Args:
        ground: the environment.
        id: of the key.
        overlap: time for which the old one stays valid beside it.

    Raises:
        BadInput: as `replaceable`.
        Retryable: the database does not answer.
    """
    old, now = replaceable(ground, id), ground.clock()
    lasts = old.expires_at - old.created_at if old.expires_at else None
    request = KeyRequest(
        team=old.team,
        use_cases=old.use_cases,
        rate_rpm=old.rate_rpm,
        concurrency_limit=old.concurrency_limit,
    )
    issued = _made(request, now, now + lasts if lasts else None, rotated_from=id)
    _keys(ground).add(issued.key, ends=now + overlap)
    _note(ground, "access.rotated", issued.key, old_valid_until=(now + overlap).isoformat())
    return issued


def revoke(ground: Ground, id: str) -> ApiKey:  # noqa: A002 - the field's name
    """End a key; the gateway refuses it within 5 s.

    Raises:
        BadInput: there is none.
        Retryable: the database does not answer.
    """
    key = found(ground, id)
    if key.revoked_at is None:
        _keys(ground).revoke(id, whoami(), ground.clock())
        key = found(ground, id)
        _note(ground, "access.revoked", key)
    return key


def publish_keys(ground: Ground, folder: Path, now: datetime) -> None:
    """Tell the gateway's workers which keys are valid now.

    Args:
        ground: the environment.
        folder: the gateway's.
        now: the time. Where no key has changed, the file's own time alone says that it is right.

    Raises:
        Retryable: the database does not answer, or the file cannot be written; the old one stays.
    """
    keys = Keys(
        at=now.timestamp(),
        keys=[
            Key(
                id=key.id,
                hash=key.hash,
                team=key.team,
                use_cases=key.use_cases,
                rate_rpm=key.rate_rpm,
                concurrency_limit=key.concurrency_limit,
                expires_at=key.expires_at.timestamp() if key.expires_at else None,
            )
            for key in _keys(ground).valid(now)
        ],
    )
    file = folder / KEYS_FILE
    told = read_published(file, Keys)
    if told is not None and told.keys == keys.keys:
        confirm(file)
    else:
        publish(file, keys.model_dump_json())


def _keys(ground: Ground) -> KeyTable:
    return KeyTable(ground.database)


def _made(
    request: KeyRequest, now: datetime, expires_at: datetime | None, rotated_from: str | None = None
) -> IssuedKey:
    id_ = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))
    text = written(id_, secrets.token_urlsafe(SECRET_BYTES))
    parts = split_key(text)
    if parts is None:
        raise AssertionError("a key that was just written can be read")
    key = ApiKey(
        id=id_,
        hash=parts[1],
        team=request.team,
        use_cases=request.use_cases,
        rate_rpm=request.rate_rpm,
        concurrency_limit=request.concurrency_limit,
        created_at=now.astimezone(UTC),
        created_by=whoami(),
        expires_at=expires_at,
        rotated_from=rotated_from,
    )
    return IssuedKey(key=key, text=text)


def _note(ground: Ground, event: str, key: ApiKey, **more: str) -> None:
    ground.note(
        event,
        actor=whoami(),
        target=f"key {key.id}",
        team=key.team,
        use_cases=list(key.use_cases),
        expires_at=key.expires_at.isoformat() if key.expires_at else None,
        rotated_from=key.rotated_from,
        **more,
    )
