"""Special uses of mailboxes (RFC 6154, RFC 8457): which can be given, and to one mailbox of an account only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rusmes.imap.commands.context import Context, Refused
from rusmes.model.mailbox import SPECIAL_USES

VIRTUAL: Final = frozenset({"\\All", "\\Flagged"})
"""They stand for mailboxes that show messages of others; there are none here."""
_BY_FOLDED: Final = {use.lower(): use for use in SPECIAL_USES if use not in VIRTUAL}


async def checked_uses(context: Context, words: Iterable[str], *, besides: int = 0) -> str:
    """The special uses for a mailbox of the user's own, as the store keeps them.

    Args:
        besides: the mailbox that may have them already.

    Raises:
        Refused: [USEATTR] one is not known, or another mailbox has it (RFC 6154 §3 leaves that to the server).
        StoreError
    """
    wanted = [word.lower() for word in words]
    unknown = [word for word in wanted if word not in _BY_FOLDED]
    if unknown:
        raise Refused("this special use is not supported", b"USEATTR")
    uses = list(dict.fromkeys(_BY_FOLDED[word] for word in wanted))
    if uses:
        for mailbox in await context.store.mailboxes(context.account_id):
            if mailbox.id != besides and set(uses) & set(mailbox.special_use.split()):
                raise Refused("another mailbox has this special use", b"USEATTR")
    return " ".join(uses)
