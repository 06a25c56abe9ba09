"""The handlers, a file for each family; `HANDLERS` has all of them, by the class of the command.

| file | commands |
| --- | --- |
| `context.py` | what a handler gets and gives back |
| `session.py` | CAPABILITY NOOP LOGOUT ID, STARTTLS AUTHENTICATE LOGIN, ENABLE COMPRESS UNAUTHENTICATE |
| `selection.py` | SELECT EXAMINE CLOSE UNSELECT CHECK |
| `append.py` | APPEND (several, CATENATE) and REPLACE |
| `idle.py` | IDLE and NOTIFY |
| `mailboxes.py` | CREATE DELETE RENAME SUBSCRIBE STATUS NAMESPACE |
| `listing.py` | LIST LSUB |
| `rights.py` | ACL, and the way from a name to a mailbox |
| `quota.py`, `metadata.py` | QUOTA; METADATA |
| `fetch.py` | FETCH |
| `messages.py` | STORE EXPUNGE COPY MOVE |
| `search.py` | SEARCH SORT THREAD CANCELUPDATE |
| `multisearch.py`, `contexts.py`, `results.py` | ESEARCH; searches that are followed; what answers are made of |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rusmes.imap.command import Command
from rusmes.imap.commands import (
    append,
    idle,
    listing,
    mailboxes,
    messages,
    metadata,
    notify,
    quota,
    rights,
    search,
    selection,
    session,
)
from rusmes.imap.commands.context import Handler

HANDLERS: Final[Mapping[type[Command], Handler]] = {
    **session.HANDLERS,
    **selection.HANDLERS,
    **append.HANDLERS,
    **idle.HANDLERS,
    **notify.HANDLERS,
    **mailboxes.HANDLERS,
    **listing.HANDLERS,
    **rights.HANDLERS,
    **quota.HANDLERS,
    **metadata.HANDLERS,
    **search.HANDLERS,
    **messages.HANDLERS,
}
