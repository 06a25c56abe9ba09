"""Appending inside a transaction, once for each idempotency key."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import structs

from rusmes._core.batch import Batch
from rusmes._core.delivery import add_new
from rusmes._core.rows import EmailRow
from rusmes.errors import NotAllowed, OverQuota
from rusmes.model.ids import IdSource
from rusmes.model.mailbox import Appended
from rusmes.model.plan import Append, Refusal
from rusmes.storage.description import Description
from rusmes.storage.flags import split_flags
from rusmes.storage.lmdb.blobs import LmdbBlobs
from rusmes.storage.lmdb.edits import Edit, find_account_id, find_mailbox_id, read_account, read_mailbox
from rusmes.storage.lmdb.layout import (
    KEYS,
    idempotency_key,
    pack_appended,
    unpack_appended,
)
from rusmes.storage.lmdb.mailboxes import new_account, new_mailbox
from rusmes.storage.names import check_account_name, normal_name

# Rows of expired generations removed by one batch: little enough not to be felt.
EXPIRED_AT_ONCE = 200
GENERATION_SECONDS = 7 * 86400.0


class Delivery:
    """What appends need besides the batch. `key_retention` is how long a key is remembered at least, in seconds."""

    __slots__ = ("_blobs", "_expired_below", "_generations", "_ids", "_latest_generation", "key_retention")

    def __init__(self, blobs: LmdbBlobs, ids: IdSource, key_retention: float) -> None:
        self._blobs = blobs
        self._ids = ids
        self.key_retention = key_retention
        self._generations = math.ceil(key_retention / GENERATION_SECONDS)
        self._expired_below = 0
        self._latest_generation = 0

    def retain(self, seconds: float) -> None:
        """Remember keys from now on for longer; never for less, since what is known was promised."""
        if seconds > self.key_retention:
            self._generations = math.ceil(seconds / GENERATION_SECONDS)
            self.key_retention = seconds

    def append(
        self, batch: Batch, items: Sequence[Append], descriptions: Sequence[Description], now: float, *, all_or_none: bool
    ) -> list[Appended | Refusal]:
        results = []
        for item, description in zip(items, descriptions, strict=True):
            result = self._append(batch, item, description, now)
            if all_or_none and isinstance(result, Refusal):
                raise (OverQuota if result.status == "5.2.2" else NotAllowed)(result.text, item.account)
            results.append(result)
        return results

    def _append(self, batch: Batch, item: Append, description: Description, now: float) -> Appended | Refusal:
        generation = int(now // GENERATION_SECONDS)
        if item.key:
            known = self._known(batch, item.key, generation, now)
            if known is not None:
                return structs.replace(known, duplicate=True)
        try:
            name = normal_name(item.mailbox)
            bits, keywords = split_flags(item.flags)
            check_account_name(item.account)
        except NotAllowed as error:
            return Refusal(554, "5.6.0", error.public)
        rendering = item.rendering
        size = rendering.size
        account_id = find_account_id(batch, item.account)
        if account_id:
            account = read_account(batch, account_id)
            if not account.has_room(size):
                return Refusal(552, "5.2.2", "mailbox full")
        else:
            first = new_account(batch, item.account, (), 0, 0, now)
            first.finish()
            account = first.account
        mailbox_id = find_mailbox_id(batch, account.id, name)
        marks = b""
        if mailbox_id:
            mailbox = read_mailbox(batch, mailbox_id)
            account.modseq += 1
        else:
            edit = Edit(batch, account)
            mailbox = new_mailbox(batch, edit, name, now)
            marks = edit.marks
        content, received = rendering.content, item.received or now
        is_file = self._blobs.refer(batch, content)
        id = self._ids.next_id()
        email = EmailRow(
            account.id, content.id, b"", received, size, rendering.skip, is_file, [], rendering.prefix,
            description.envelope, description.body_structure, description.headers,
        )  # fmt: skip
        uid = add_new(batch, account, mailbox, email, id, description.message_ids, bits, keywords, marks)
        result = Appended(account.id, mailbox.id, mailbox.uid_validity, uid, account.modseq, id)
        if item.key:
            key = idempotency_key(generation, item.key)
            batch.put(KEYS, key, pack_appended(key, now + self.key_retention, result))
        return result

    def _known(self, batch: Batch, key: bytes, generation: int, now: float) -> Appended | None:
        """A key is in this generation, in one as far back as the retention, or in a later one if the clock went back."""
        self._latest_generation = max(self._latest_generation, generation)
        for place in range(self._latest_generation, generation - self._generations - 1, -1):
            full = idempotency_key(place, key)
            row = batch.get(KEYS, full)
            if row is not None:
                expires, appended = unpack_appended(full, row)
                if expires > now:
                    return appended
        return None

    def expire_keys(self, batch: Batch, now: float) -> None:
        """Remove some rows of generations that are over; costs nothing when there are none."""
        oldest_live = int(now // GENERATION_SECONDS) - self._generations
        if self._expired_below >= oldest_live:
            return
        stop = oldest_live.to_bytes(4, "big")
        rows = batch.scan(KEYS, b"", start=b"\0", stop=stop, limit=EXPIRED_AT_ONCE)
        for key, _ in rows:
            batch.delete(KEYS, key)
        if len(rows) < EXPIRED_AT_ONCE:
            self._expired_below = oldest_live
