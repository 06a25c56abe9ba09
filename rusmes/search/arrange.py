"""Sorting and threading what was found: what is looked at is read in slices, what was asked before is kept (`orders`)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from rusmes._core.casemap import fold
from rusmes._core.mime import identifiers
from rusmes._core.textscan import FieldReader
from rusmes._core.view import MailboxRows, Uids
from rusmes.mime.fields import CACHED_NAMES
from rusmes.search.api import Threads
from rusmes.search.orders import Criteria, Order, Orders, packed
from rusmes.search.slices import Slices
from rusmes.search.sorting import FIELDS, KEYS, Sortable, columns, sent_seconds, sorted_places
from rusmes.search.subject import base_subject
from rusmes.search.threads import Threadable, by_references, by_subject
from rusmes.storage.api import MailStore

# Fewer are sorted as they come.
KEPT_FROM: Final = 500
# New messages that are put into an order one by one, each beside a dozen others that are read for it.
MAX_INSERTED: Final = 32
# Threads are made by Python code of some microseconds a message.
MANY_MESSAGES: Final = 200
_THREAD_FIELDS: Final = (b"date", b"subject", b"message-id", b"in-reply-to", b"references")
_NO_FIELDS: Final[list[bytes | None]] = [None] * 5
_MAX_UID: Final = 0xFFFFFFFF


class Arranger:
    def __init__(self, store: MailStore, slices: Slices) -> None:
        self._store = store
        self._slices = slices
        self._orders = Orders()

    # SORT

    async def sort(self, rows: MailboxRows, uids: Uids, criteria: Sequence[tuple[str, bool]]) -> list[int]:
        unknown = [key for key, _ in criteria if key not in KEYS]
        if unknown or not criteria:
            raise ValueError(f"cannot sort by {unknown}")
        if len(uids) < KEPT_FROM or 2 * len(uids) < rows.exists:
            return await self._sorted(rows, uids.list(), criteria)
        order = await self._order(rows, tuple(criteria))
        return uids.ordered(order.uids)

    async def _order(self, rows: MailboxRows, criteria: Criteria) -> Order:
        """That of all messages."""
        mailbox_id = rows.mailbox_id
        order = self._orders.order(mailbox_id, criteria)
        if order is not None:
            new = (rows.mask_uids([(order.largest_uid + 1, _MAX_UID)]) & rows.mask_live()).uids().list()
            if len(new) <= MAX_INSERTED:
                if rows.exists - len(new) != len(order.uids):
                    order = Order(array("I", [uid for uid in order.uids if rows.row_of(uid) >= 0]), order.largest_uid)
                for uid in new:
                    self._insert(rows, order, criteria, uid)
                self._orders.keep_order(mailbox_id, criteria, order)
                return order
        uids = rows.mask_live().uids().list()
        order = Order(array("I", await self._sorted(rows, uids, criteria)), uids[-1] if uids else 0)
        self._orders.keep_order(mailbox_id, criteria, order)
        return order

    def _insert(self, rows: MailboxRows, order: Order, criteria: Criteria, uid: int) -> None:
        """Where it belongs; behind its equals, for it is the youngest."""
        keys = self._keys(rows, uid, criteria)
        low, high = 0, len(order.uids)
        while low < high:
            middle = (low + high) >> 1
            if _is_before(keys, self._keys(rows, order.uids[middle], criteria), criteria):
                high = middle
            else:
                low = middle + 1
        order.uids.insert(low, uid)
        order.largest_uid = uid

    def _keys(self, rows: MailboxRows, uid: int, criteria: Criteria) -> list[int | bytes]:
        row = rows.row_of(uid)
        reader = FieldReader(1, FIELDS, CACHED_NAMES)
        self._store.scan_emails(rows.account_id, [rows.email_id(row)], reader)
        values = reader.values(0)
        fields = values[1] if values is not None else _NO_FIELDS
        message = Sortable(rows.internal_date(row), rows.message_size(row), fields)
        return [column[0] for column in columns([message], criteria)]

    async def _sorted(self, rows: MailboxRows, uids: Sequence[int], criteria: Sequence[tuple[str, bool]]) -> list[int]:
        places = [(uid, row) for uid in uids if (row := rows.row_of(uid)) >= 0]
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

        await self._slices.run(look, len(ids))
        return [places[place][0] for place in sorted_places(found, criteria)]

    # THREAD

    async def thread(self, rows: MailboxRows, uids: Uids, algorithm: str) -> Threads:
        thread = {"ORDEREDSUBJECT": by_subject, "REFERENCES": by_references}[algorithm]
        places = [(uid, row) for uid in uids.list() if (row := rows.row_of(uid)) >= 0]
        asked = packed([uid for uid, _ in places])
        known = self._orders.threads(rows.mailbox_id, algorithm, asked)
        if known is not None:
            return known
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

        await self._slices.run(look, len(ids))
        if len(messages) <= MANY_MESSAGES:
            return thread(messages)
        found = await self._slices.aside(lambda: thread(messages))
        if len(messages) >= KEPT_FROM:
            self._orders.keep_threads(rows.mailbox_id, algorithm, asked, found)
        return found


def _is_before(one: list[int | bytes], other: list[int | bytes], criteria: Criteria) -> bool:
    for a, b, (_, is_reversed) in zip(one, other, criteria, strict=True):
        if a != b:
            return (a < b) != is_reversed  # type: ignore[operator]
    return False


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
