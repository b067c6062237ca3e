"""The audit log of one process: an intent before the work, a record after it, hash-chained.

What it promises:

- A request that has begun has a slot on disk and space for its record, so that a full disk shows
  when the request comes and not when it is done.
- A process that is killed loses nothing: what was written is the system's. A loss of power loses at
  most what came in the last `sync_every_s`; both files are synced together, in the background.
- A request that was begun and never ended is closed as `interrupted` by whoever finds its writer
  dead, once.
"""

import contextlib
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from gpufleet.edges.audit_chain import RECORD_BYTES, Chain, Segment
from gpufleet.edges.audit_facts import Begun, Gap, for_slot, gap_facts, known, moment, split
from gpufleet.edges.audit_files import GAP, HEAD, INTENT, INTENTS, Slots
from gpufleet.edges.audit_limits import (
    AuditLimits,
    AuditUnavailable,
    Waiting,
    check_backlog,
    unavailable,
)
from gpufleet.edges.audit_recovery import recover
from gpufleet.spec.audit import CONTENT
from gpufleet.spec.gateway import AuditRecord

_LOOK_AGAIN_S: Final = 1.0
_TOGETHER_S: Final = 1.0
"""Refused requests of so much time have one record together."""


class _Stream(Chain):
    """The chain of one data class, with its requests in flight."""

    in_flight = 0
    head_slot: int | None = None
    opened_at = 0.0
    """When its segment was opened; monotonic."""
    refused_at = float("-inf")
    """When it found no space last; monotonic."""
    refusal = ""


@dataclass
class _State:
    chains: dict[str, _Stream] = field(default_factory=dict)
    begun: dict[str, Begun] = field(default_factory=dict)
    late: list[tuple[Begun, dict[str, Any]]] = field(default_factory=list)
    gaps: dict[tuple[str, str, bool, bool], Gap] = field(default_factory=dict)
    retired: list[Segment] = field(default_factory=list)
    """Full or old segments that are not sealed yet."""


class AuditLog:
    """Records the requests of one process; called from several threads.

    Args:
        folder: where every process of the gateway has its files.
        writer: what the process is, such as `gateway-0`; start, pid and random digits are added.
        limits: of sizes and ages.
        now: tells the time, seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        writer: str,
        limits: AuditLimits | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._limits = limits or AuditLimits()
        self._now = now
        clean = re.sub(r"[^a-zA-Z0-9-]", "-", writer)[:60]
        stamp = datetime.fromtimestamp(now(), UTC).strftime("%Y%m%dT%H%M%S")
        self.writer = f"{clean}-{stamp}-{os.getpid()}-{secrets.token_hex(4)}"
        self._state = _State()
        self._lock = threading.Lock()
        self._waiting = Waiting(folder)
        self._made: Slots | None = None
        self._is_dirty = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True, name="audit-sync")
        self._thread.start()

    def begin(self, request_id: str, opening: Mapping[str, Any]) -> None:
        """Note that a request has come; from here on it leaves a record, whatever happens.

        Args:
            request_id: its own name.
            opening: what an `AuditRecord` says of it and is known by now, without content; and
                `data_class`, where its use case is known. `at` is now where it is not given.

        Raises:
            AuditUnavailable: it could not be recorded. Nothing is kept of it: where it is served
                all the same, `missed` counts it.
        """
        data_class, facts = split(request_id, {"at": moment(self._now()), **opening})
        with self._lock:
            if request_id in self._state.begun:
                raise AuditUnavailable(
                    "a request with this id is being worked on", where=request_id
                )
            try:
                chain = self._chain(data_class)
                self._settle(chain, data_class)
                self._reserve(chain, chain.in_flight + 1)
                slot = self._slots.put(INTENT, for_slot(data_class, facts))
            except OSError as error:
                raise unavailable(self._folder, error) from None
            chain.in_flight += 1
            self._state.begun[request_id] = Begun(slot, data_class, facts)
            self._is_dirty = True

    def end(self, request_id: str, closing: Mapping[str, Any]) -> AuditRecord:
        """Write the record of a request that has begun.

        Args:
            request_id: as it began.
            closing: the other fields of its `AuditRecord`; `prompt` and `answer` only where its
                data class keeps them.

        Raises:
            KeyError: it never began, or has ended.
            AuditUnavailable: the disk fails; it is tried again, and closed as `interrupted` if it
                never succeeds.
        """
        with self._lock:
            begun = self._state.begun.pop(request_id)
            facts = {**begun.facts, **known(closing)}
            try:
                return self._write(begun, facts)
            except OSError as error:
                self._state.late.append((begun, facts))
                raise unavailable(self._folder, error) from None

    def missed(self, opening: Mapping[str, Any], *, served: bool = True) -> None:
        """Count a request that could not be recorded.

        Args:
            opening: as for `begin`.
            served: whether it goes on nevertheless; False where it is refused for that.
        """
        data_class, facts = split("", opening)
        use_case = str(facts.get("use_case", ""))
        with self._lock:
            self._miss(data_class, use_case, served=served)

    def refused(self, opening: Mapping[str, Any]) -> None:
        """Count one more request that was refused since nobody was recognized.

        Those of a second have one record together: whoever has no key must not be able to fill the
        object stores with what nobody may delete.

        Args:
            opening: as for `begin`.
        """
        data_class, _ = split("", opening)
        with self._lock:
            self._miss(data_class, "", refused=True)

    def recover(self) -> list[AuditRecord]:
        """Close what writers that have ended left open; the records that say so.

        Raises:
            AuditUnavailable: the folder cannot be written.
        """
        try:
            return recover(self._folder)
        except OSError as error:
            raise unavailable(self._folder, error) from None

    def seal(self) -> None:
        """Seal every segment that has a record now.

        Raises:
            AuditUnavailable: the folder cannot be written.
        """
        try:
            with self._lock:
                for chain in self._state.chains.values():
                    self._rotate(chain)
            self._finish()
        except OSError as error:
            raise unavailable(self._folder, error) from None

    def close(self) -> None:
        """Seal everything and end; requests that have not ended are found by `recover`."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            with self._lock:
                for chain in self._state.chains.values():
                    self._retire(chain)
            self._finish()
        for chain in self._state.chains.values():
            chain.let_go()
        if self._made is not None:
            self._made.close()

    @property
    def _slots(self) -> Slots:
        """Its slots; a process begins its work on a full disk too.

        Raises:
            OSError: there is no space for them.
        """
        if self._made is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._made = Slots.create(self._folder / f"{self.writer}{INTENTS}")
        return self._made

    def _write(self, begun: Begun, facts: dict[str, Any]) -> AuditRecord:
        """The record of a request, and its content apart."""
        chain = self._chain(begun.data_class)
        bare = {**facts, "prompt": None, "answer": None}
        if facts.get("prompt") is not None or facts.get("answer") is not None:
            self._write_content(begun.data_class, facts)
        record = chain.append(bare)
        self._is_dirty = True
        with contextlib.suppress(OSError):
            # The record is there: whoever finds the slot finds that too.
            self._slots.clear(begun.slot)
        chain.in_flight -= 1
        return record

    def _write_content(self, data_class: str, facts: dict[str, Any]) -> None:
        """Content that finds no space is a gap in its own chain, and no reason to lose more."""
        kept = f"{data_class}{CONTENT}{facts.get('use_case', '')}"
        try:
            chain = self._chain(kept)
            self._settle(chain, kept)
            size = 6 * sum(len(str(facts.get(name) or "")) for name in ("prompt", "answer"))
            self._reserve(chain, 1, size + RECORD_BYTES)
            chain.append(facts)
        except (OSError, AuditUnavailable):
            self._miss(kept, str(facts.get("use_case", "")))

    def _chain(self, data_class: str) -> _Stream:
        chain = self._state.chains.get(data_class)
        if chain is None:
            chain = _Stream(self._folder, f"{self.writer}.{data_class}")
            self._state.chains[data_class] = chain
        return chain

    def _settle(self, chain: _Stream, data_class: str) -> None:
        """Write what could not be written before."""
        late, self._state.late = self._state.late, []
        while late:
            try:
                self._write(*late[0])
            except OSError:
                self._state.late = late
                raise
            late.pop(0)
        for key, gap in list(self._state.gaps.items()):
            if key[0] != data_class or time.monotonic() < gap.due_s:
                continue
            self._reserve(chain, chain.in_flight + 2)
            chain.append(gap_facts(gap.kept))
            del self._state.gaps[key]
            if gap.slot is not None:
                self._slots.clear(gap.slot)

    def _miss(
        self, data_class: str, use_case: str, *, refused: bool = False, served: bool = True
    ) -> None:
        at = moment(self._now())
        self._chain(data_class)
        gap = self._state.gaps.setdefault(
            (data_class, use_case, refused, served),
            Gap(
                f"gap-{secrets.token_hex(8)}",
                data_class,
                use_case,
                at,
                refused=refused,
                served=served,
                due_s=time.monotonic() + _TOGETHER_S if refused else 0.0,
            ),
        )
        gap.ends, gap.count = at, gap.count + 1
        # A slot that is there already takes no space; without one it is known to this process only.
        with contextlib.suppress(OSError):
            gap.slot = self._slots.put(GAP, gap.kept, gap.slot)

    def _reserve(self, chain: _Stream, records: int, more_bytes: int = 0) -> None:
        """Make sure that a segment has space for so many records.

        Raises:
            AuditUnavailable: there is no space, or too much waits to be shipped.
        """
        needed = records * RECORD_BYTES + more_bytes
        segment = chain.segment
        if segment is not None and segment.offset + needed <= segment.size:
            return
        if time.monotonic() - chain.refused_at < _LOOK_AGAIN_S:
            raise AuditUnavailable(chain.refusal, where=str(self._folder))
        try:
            # Its file is there before any segment is: nobody takes it for a dead one's.
            _ = self._slots
            data_class = chain.name.rpartition(".")[2]
            check_backlog(self._folder, self._waiting, self._limits, data_class)
            self._replace(chain, needed)
        except (OSError, AuditUnavailable) as error:
            refused = unavailable(self._folder, error) if isinstance(error, OSError) else error
            chain.refused_at, chain.refusal = time.monotonic(), refused.what
            raise refused from None

    def _rotate(self, chain: _Stream) -> None:
        """Seal what has records; requests in flight keep their space in the next segment."""
        if chain.segment is None:
            return
        if not chain.in_flight:
            self._retire(chain)
        elif chain.segment.offset:
            self._replace(chain, chain.in_flight * RECORD_BYTES)

    def _replace(self, chain: _Stream, needed: int) -> None:
        """Go on in a new segment; the old one stays where there is no space for another."""
        size = max(self._limits.segment_bytes, 2 * needed)
        if chain.segment is not None and not chain.segment.offset:
            chain.segment.grow(size)
            return
        segment = chain.next_segment(size, self._now())
        self._waiting.opened(size)
        try:
            self._retire(chain)
        except OSError:
            segment.end()
            raise
        chain.segment, chain.opened_at = segment, time.monotonic()

    def _retire(self, chain: _Stream) -> None:
        """Let the segment of a chain be sealed, by whoever may wait for the disk."""
        segment = chain.segment
        if segment is None:
            return
        if segment.offset:
            # Whoever goes on for a dead writer needs it when the segment was shipped.
            chain.head_slot = self._slots.put(HEAD, chain.head, chain.head_slot)
        self._state.retired.append(segment)
        chain.segment = None

    def _finish(self) -> None:
        """Seal what was retired; the lock is not held while the disk is waited for."""
        with self._lock:
            retired, self._state.retired = self._state.retired, []
        try:
            if retired and self._made is not None:
                os.fdatasync(self._made.descriptor)
            while retired:
                retired[0].end()
                retired.pop(0)
        finally:
            with self._lock:
                self._state.retired[:0] = retired

    def _keep(self) -> None:
        """Sync what was written, and seal what is old."""
        looked_at_s = time.monotonic()
        while not self._ended.wait(self._limits.sync_every_s):
            with contextlib.suppress(OSError):
                self._sync()
                self._finish()
                if time.monotonic() - looked_at_s >= _LOOK_AGAIN_S:
                    looked_at_s = time.monotonic()
                    self._waiting.look()
            with self._lock:
                for data_class, chain in list(self._state.chains.items()):
                    with contextlib.suppress(OSError, AuditUnavailable):
                        self._tend(data_class, chain)

    def _tend(self, data_class: str, chain: _Stream) -> None:
        """Write what is owed, and seal what is old."""
        self._settle(chain, data_class)
        is_old = time.monotonic() - chain.opened_at >= self._limits.seal_after_s
        if chain.segment is not None and is_old:
            self._rotate(chain)

    def _sync(self) -> None:
        with self._lock:
            if not self._is_dirty or self._made is None:
                return
            self._is_dirty = False
            live = [chain.segment for chain in self._state.chains.values() if chain.segment]
            written = [os.dup(each.descriptor) for each in [*self._state.retired, *live]]
        try:
            # Records first: a slot that is free must not outlive the record that freed it.
            for descriptor in written:
                os.fdatasync(descriptor)
            os.fdatasync(self._made.descriptor)
        finally:
            for descriptor in written:
                os.close(descriptor)
