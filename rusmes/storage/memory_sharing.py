"""Rights of others and annotations in memory: the half of `MemoryMailStore` that only mailboxes themselves are needed for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rusmes.errors import LimitReached, NotFound
from rusmes.model.mailbox import Mailbox
from rusmes.storage.changes import ChangeNotices
from rusmes.storage.memory_records import MailboxRecord
from rusmes.storage.names import MAX_IDENTIFIERS, check_identifier


class MemorySharing:
    """Lists of rights and annotations; the store gives it mailboxes."""

    _mailboxes: dict[int, MailboxRecord]
    _notices: ChangeNotices

    def __init__(self) -> None:
        self._server_metadata: dict[int, dict[str, bytes]] = {}

    def _mailbox_by_id(self, mailbox_id: int) -> MailboxRecord:
        if mailbox_id not in self._mailboxes:
            raise NotFound("no such mailbox", str(mailbox_id))
        return self._mailboxes[mailbox_id]

    def _touch(self, mailbox: MailboxRecord) -> None:
        raise NotImplementedError

    def _value(self, mailbox: MailboxRecord) -> Mailbox:
        raise NotImplementedError

    async def acl(self, mailbox_id: int) -> dict[str, str]:
        return dict(sorted(self._mailbox_by_id(mailbox_id).acl.items(), key=lambda item: item[0].encode()))

    async def set_rights(self, mailbox_id: int, identifier: str, rights: str) -> None:
        check_identifier(identifier)
        mailbox = self._mailbox_by_id(mailbox_id)
        if mailbox.acl.get(identifier, "") == rights:
            return
        if not rights:
            del mailbox.acl[identifier]
        elif identifier not in mailbox.acl and len(mailbox.acl) >= MAX_IDENTIFIERS:
            raise LimitReached("too many identifiers", f"at most {MAX_IDENTIFIERS}")
        else:
            mailbox.acl[identifier] = rights
        self._touch(mailbox)

    async def shared_mailboxes(self, identifiers: Sequence[str]) -> list[tuple[Mailbox, dict[str, str]]]:
        wanted = set(identifiers)
        found = [mailbox for mailbox in self._mailboxes.values() if wanted & mailbox.acl.keys()]
        found.sort(key=lambda mailbox: (mailbox.account.id, mailbox.name))
        return [(self._value(mailbox), await self.acl(mailbox.id)) for mailbox in found]

    async def metadata(self, mailbox_id: int, account_id: int) -> dict[str, bytes]:
        return dict(sorted(self._entries(mailbox_id).get(account_id, {}).items()))

    def _entries(self, mailbox_id: int) -> dict[int, dict[str, bytes]]:
        return self._mailbox_by_id(mailbox_id).metadata if mailbox_id else self._server_metadata

    async def set_metadata(
        self, mailbox_id: int, account_id: int, entries: Mapping[str, bytes | None], *, max_entries: int = 0
    ) -> None:
        of_all = self._entries(mailbox_id)
        new = {**of_all.get(account_id, {}), **entries}
        kept = {name: value for name, value in new.items() if value is not None}
        if len(kept) > max_entries > 0 and any(value is not None for value in entries.values()):
            raise LimitReached("too many annotations", f"at most {max_entries}")
        of_all[account_id] = kept
        if not mailbox_id:
            self._notices.tell([(account_id, 0)])
            return
        mailbox = self._mailbox_by_id(mailbox_id)
        if account_id in (0, mailbox.account.id):
            self._touch(mailbox)
