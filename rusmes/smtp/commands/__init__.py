"""What SMTP commands do: ask ports, change the conversation, return a reply. No bytes, no transports, no waiting for input.

`docs/extending-commands.md` says how to add one.

Map: `conversation` who the client is and what it is handing over; `greeting` EHLO and the small commands; `login` AUTH;
`envelope` MAIL and RCPT; `message` DATA and BDAT. STARTTLS needs the connection, so it is in `rusmes.smtp.server`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from rusmes.smtp.commands import envelope, greeting, login, message

if TYPE_CHECKING:
    from rusmes.smtp.commands.conversation import Conversation
    from rusmes.smtp.reply import Reply
    from rusmes.smtp.session import Command

Handler = Callable[["Conversation", "Command"], "Reply | Awaitable[Reply | None] | None"]
"""Returns the reply, or an awaitable when somebody has to be asked; None when it comes later (BDAT: at the chunk's end)."""

COMMANDS: Final[Mapping[str, Handler]] = MappingProxyType(
    {
        "EHLO": greeting.ehlo,
        "LHLO": greeting.ehlo,
        "HELO": greeting.helo,
        "MAIL": envelope.mail,
        "RCPT": envelope.rcpt,
        "DATA": message.data,
        "BDAT": message.bdat,
        "RSET": greeting.rset,
        "NOOP": greeting.noop,
        "VRFY": greeting.vrfy,
        "HELP": greeting.help_,
        "QUIT": greeting.quit_,
        "AUTH": login.auth,
        "XCLIENT": greeting.xclient,
    }
)

HOT: Final[Mapping[str, Handler]] = MappingProxyType({verb: COMMANDS[verb] for verb in ("MAIL", "RCPT", "DATA")})
"""What every message says; there is nothing else to ask before they are carried out."""

JUNK: Final = frozenset({"EHLO", "LHLO", "HELO", "RSET", "NOOP", "VRFY", "HELP", "XCLIENT"})
"""Commands that bring no mail forward; too many in a row end the session."""

ENDS_GROUP: Final = frozenset({"EHLO", "LHLO", "HELO", "DATA", "AUTH", "STARTTLS"})
"""RFC 2920 §3.1: a client must wait for the reply to these before it says more."""
