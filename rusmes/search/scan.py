"""The searcher that reads. Columns answer first; then what is open is looked at in the store, in slices.

A slice is some hundred emails and runs on the loop, because the rows of a mailbox in use are in memory, and each look into
LMDB gives the GIL away, which an executor's thread might not get back for long. A slice with major page faults (a disk was
waited for) shows that this mailbox is not in memory: what follows it goes to an executor, and so do large messages. Between
slices everybody else has a turn. Measured (10,000 messages of 3.6 KB, LMDB): a text in subjects 12 ms, in bodies 20 to 30.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from rusmes._core.casemap import fold
from rusmes._core.mime import identifiers
from rusmes._core.textscan import FieldReader, TextScan
from rusmes._core.view import Mask, Uids
from rusmes.clock import Clock, SystemClock
from rusmes.mime.fields import CACHED_NAMES
from rusmes.model.query import Query
from rusmes.search import plan as p
from rusmes.search.api import Progress, Scope, ThreadNode
from rusmes.search.sentdate import parse_sent_date
from rusmes.search.sorting import FIELDS, KEYS, Sortable, columns, sent_seconds, sorted_places
from rusmes.search.subject import base_subject
from rusmes.search.threads import Threadable, by_references, by_subject
from rusmes.storage.api import MailStore

SLICE_EMAILS: Final = 256
SLICE_BYTES: Final = 1 << 20
# A larger message is searched in the executor, which has the GIL for hardly any of that time.
LARGE_BYTES: Final = 256 * 1024
# More of them in one slice are no accident.
MAJOR_FAULTS: Final = 2
# Threads are made by Python code of about 15 us a message.
MANY_MESSAGES: Final = 200
THREADS: Final = 2
_THREAD_FIELDS: Final = (b"date", b"subject", b"message-id", b"in-reply-to", b"references")

T = TypeVar("T")


def major_faults() -> int:
    """Pages that this thread has waited for a disk for, until now (getrusage(2))."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt


Lanes = int
"""One octet, 0 or 1, for each candidate, as a number: joined by `&` and `|` in C."""


class ScanSearcher:
    """Implements `search.api.Searcher`."""

    def __init__(self, store: MailStore, *, clock: Clock | None = None) -> None:
        self._store = store
        self._clock = clock or SystemClock()
        self._executor: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Safe to call twice; a slice that runs is waited for."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()

    async def search(self, scope: Scope, query: Query, *, progress: Progress | None = None) -> Uids:
        rows = scope.rows
        plan = p.plan(scope, query, self._clock.now())
        everything, nothing = Mask(rows, 1), Mask(rows)
        seen = rows.mask_live() if scope.known is None else rows.mask_live() & scope.known
        surely, perhaps = p.evaluate(
            plan.root, lambda mask: mask, lambda question: (nothing, everything), Mask.__invert__, everything, nothing
        )
        surely, perhaps = surely & seen, perhaps & seen
        places = (perhaps & ~surely).row_list() if plan.questions else []
        if not places:
            return surely.uids()
        settled = surely.uids()
        candidates = _Candidates(self, scope, plan, places, progress)
        found = await candidates.settle()
        return Uids(sorted(settled.list() + found)) if len(settled) else Uids(found)

    async def sort(self, scope: Scope, uids: Uids, criteria: Sequence[tuple[str, bool]]) -> list[int]:
        unknown = [key for key, _ in criteria if key not in KEYS]
        if unknown or not criteria:
            raise ValueError(f"cannot sort by {unknown}")
        rows = scope.rows
        places = [(uid, row) for uid in uids if (row := rows.row_of(uid)) >= 0]
        if not places:
            return []
        row_list = [row for _, row in places]
        facts = [(rows.internal_date(row), rows.message_size(row)) for row in row_list]
        ids = rows.email_ids(row_list)
        found: list[list[int | bytes]] = [[] for _ in criteria]
        reader = None
        if any(key not in ("ARRIVAL", "SIZE") for key, _ in criteria):
            reader = FieldReader(len(ids), FIELDS, CACHED_NAMES)
        account_id = rows.account_id

        def look(start: int, stop: int) -> None:
            if reader is not None:
                self._store.scan_emails(account_id, ids[start:stop], reader, first=start)
            messages = []
            for place in range(start, stop):
                values = reader.values(place) if reader is not None else None
                messages.append(Sortable(*facts[place], values[1] if values is not None else _NO_FIELDS))
            for column, more in zip(found, columns(messages, criteria), strict=True):
                column.extend(more)

        await self.in_slices(look, _slices(len(ids)))
        return [places[place][0] for place in sorted_places(found, criteria)]

    async def thread(self, scope: Scope, uids: Uids, algorithm: str) -> list[ThreadNode]:
        thread = {"ORDEREDSUBJECT": by_subject, "REFERENCES": by_references}[algorithm]
        rows = scope.rows
        places = [(uid, row) for uid in uids if (row := rows.row_of(uid)) >= 0]
        row_list = [row for _, row in places]
        arrivals = [rows.internal_date(row) for row in row_list]
        ids = rows.email_ids(row_list)
        reader = FieldReader(len(ids), _THREAD_FIELDS, CACHED_NAMES)
        account_id = rows.account_id
        messages: list[Threadable] = []

        def look(start: int, stop: int) -> None:
            self._store.scan_emails(account_id, ids[start:stop], reader, first=start)
            for place in range(start, stop):
                values = reader.values(place)
                fields = values[1] if values is not None else _NO_FIELDS
                messages.append(_threadable(places[place][0], arrivals[place], fields))

        await self.in_slices(look, _slices(len(ids)))
        if len(messages) <= MANY_MESSAGES:
            return thread(messages)
        return await self._aside(lambda: thread(messages))

    # Slices

    async def in_slices(
        self,
        look: Callable[[int, int], None],
        slices: Iterator[tuple[int, int, bool]],
        progress: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """Call `look` with (start, stop) of each slice, here or aside."""
        is_slow = False
        for start, stop, is_large in slices:
            if start and not is_slow:
                await asyncio.sleep(0)
            if is_slow or is_large:
                await self._aside(lambda start=start, stop=stop: look(start, stop))  # type: ignore[misc]
            else:
                faults = major_faults()
                look(start, stop)
                is_slow = major_faults() - faults > MAJOR_FAULTS
            if progress is not None:
                await progress(stop)

    async def _aside(self, work: Callable[[], T]) -> T:
        """One job after the other as they come, so that searches take turns."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(THREADS, "search")
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


_NO_FIELDS: Final = [None] * max(len(FIELDS), len(_THREAD_FIELDS))


def _slices(count: int, sizes: Sequence[int] | None = None) -> Iterator[tuple[int, int, bool]]:
    """(start, stop, whether it is large)"""
    start = 0
    while start < count:
        stop = min(start + SLICE_EMAILS, count)
        total = 0
        if sizes is not None:
            for place in range(start, stop):
                total += sizes[place]
                if total > SLICE_BYTES:
                    stop = max(place, start + 1)
                    break
        yield start, stop, sizes is not None and max(sizes[start:stop]) > LARGE_BYTES
        start = stop


def _threadable(uid: int, arrival: int, fields: Sequence[bytes | None]) -> Threadable:
    date, subject, message_id, in_reply_to, references = fields
    base = base_subject(subject or b"")
    own = identifiers(message_id) if message_id else []
    older = identifiers(references) if references else []
    if not older and in_reply_to:
        older = identifiers(in_reply_to)[:1]
    return Threadable(
        uid,
        sent_seconds(Sortable(arrival, 0, (date,))),
        fold(base.text),
        base.is_reply,
        _normal_id(own[0]) if own else b"",
        [_normal_id(id) for id in older],
    )


def _normal_id(id: bytes) -> bytes:
    """RFC 5256 §3: <"a"@b> is <a@b>."""
    if b'"' not in id:
        return id
    local, at, host = id.rpartition(b"@")
    if len(local) > 1 and local.startswith(b'"') and local.endswith(b'"'):
        local = local[1:-1].replace(b"\\\\", b"\0").replace(b"\\", b"").replace(b"\0", b"\\")
    return local + at + host


class _Candidates:
    """The messages that columns did not settle, by place in `uids`; their rows may move meanwhile."""

    def __init__(
        self, searcher: ScanSearcher, scope: Scope, plan: p.Plan, row_list: list[int], progress: Progress | None
    ) -> None:
        rows = scope.rows
        self._searcher = searcher
        self._store = searcher._store
        self._mailbox_id = rows.mailbox_id
        self._account_id = rows.account_id
        self._plan = plan
        self._progress = progress
        self._uids = rows.uids_of(row_list)
        self._ids = rows.email_ids(row_list)
        self._sizes = [rows.message_size(row) for row in row_list]
        self._all: Lanes = int.from_bytes(b"\1" * len(row_list), "little")
        self._known = {id(mask): _lanes(mask.octets(row_list)) for mask in _masks(plan.root)}
        self._bounds: list[p.Bounds[Lanes]] = [(0, self._all)] * len(plan.questions)

    async def settle(self) -> list[int]:
        """The UIDs of those that are found, ascending."""
        for stage in p.STAGES:
            questions = [place for place, question in enumerate(self._plan.questions) if question.kind == stage]
            if not questions:
                continue
            surely, perhaps = self._evaluate()
            open_places = _places(perhaps ^ surely, len(self._uids))
            if not open_places:
                break
            answers = await self._answer(stage, [self._plan.questions[place] for place in questions], open_places)
            looked_at = self._spread(b"\1" * len(open_places), open_places)
            for place, answer in zip(questions, answers, strict=True):
                yes = self._spread(answer, open_places)
                self._bounds[place] = (yes, yes | (self._all ^ looked_at))
        surely, _ = self._evaluate()
        return [self._uids[place] for place in _places(surely, len(self._uids))]

    def _evaluate(self) -> p.Bounds[Lanes]:
        return p.evaluate(
            self._plan.root,
            lambda mask: self._known[id(mask)],
            self._bounds.__getitem__,
            lambda lanes: lanes ^ self._all,
            self._all,
            0,
        )

    def _spread(self, answer: bytes, places: list[int]) -> Lanes:
        if len(places) == len(self._uids):
            return _lanes(answer)
        octets = bytearray(len(self._uids))
        for place, value in zip(places, answer, strict=True):
            octets[place] = value
        return _lanes(octets)

    async def _answer(self, stage: str, questions: list[p.Question], places: list[int]) -> list[bytes]:
        """For each question an octet for each place."""
        ids = [self._ids[place] for place in places]
        if stage == p.SAVED:
            return await self._days(questions, [self._uids[place] for place in places])
        if stage in (p.SENT, p.THREAD):
            return await self._fields(stage, questions, ids)
        reader = TextScan(len(ids), [(question.where, question.name, question.text) for question in questions], CACHED_NAMES)
        sizes = [self._sizes[place] for place in places] if stage == p.DEAR_TEXT else None
        await self._read(reader, ids, sizes)
        return [reader.hits(term) for term in range(len(questions))]

    async def _read(self, reader: TextScan | FieldReader, ids: list[bytes], sizes: list[int] | None = None) -> None:
        def look(start: int, stop: int) -> None:
            self._store.scan_emails(self._account_id, ids[start:stop], reader, first=start)

        progress = self._progress
        tell = (lambda done: progress(done, len(ids))) if progress is not None else None
        await self._searcher.in_slices(look, _slices(len(ids), sizes), tell)

    async def _fields(self, stage: str, questions: list[p.Question], ids: list[bytes]) -> list[bytes]:
        reader = FieldReader(len(ids), (b"date",) if stage == p.SENT else (), CACHED_NAMES)
        await self._read(reader, ids)
        found = [reader.values(place) for place in range(len(ids))]
        if stage == p.THREAD:
            threads = [values[0] if values is not None else b"" for values in found]
            return [bytes(thread == question.thread_id for thread in threads) for question in questions]
        dates = [
            parse_sent_date(values[1][0]) if values is not None and values[1][0] is not None else None for values in found
        ]  # fmt: skip
        return [bytes(date is not None and question.holds(date.day) for date in dates) for question in questions]

    async def _days(self, questions: list[p.Question], uids: list[int]) -> list[bytes]:
        """RFC 8514 §4.3."""
        days: list[int | None] = []

        def look(start: int, stop: int) -> None:
            dates = self._store.saved_dates(self._mailbox_id, uids[start:stop])
            days.extend(int(date // 86400) + p.EPOCH_DAY if date is not None else None for date in dates)

        await self._searcher.in_slices(look, _slices(len(uids)))
        return [bytes(day is not None and question.holds(day) for day in days) for question in questions]


def _masks(node: p.Node) -> Iterator[Mask]:
    if node.mask is not None:
        yield node.mask
    for part in node.parts:
        yield from _masks(part)


def _lanes(octets: bytes | bytearray) -> Lanes:
    return int.from_bytes(octets, "little")


def _places(lanes: Lanes, count: int) -> list[int]:
    return [place for place, octet in enumerate(lanes.to_bytes(count, "little")) if octet]
