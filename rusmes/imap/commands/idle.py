"""IDLE (RFC 9051 §6.3.13, RFC 2177): the client waits, and is told at once.

While it waits, the hub calls the conversation when the rows of the selected mailbox have changed; no task is woken for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rusmes import metrics as m
from rusmes._core.lines import LineTooLong
from rusmes.imap.command import Command, Idle
from rusmes.imap.commands.context import Bad, Context, Handler, Ok, Outcome


async def idle(context: Context, command: Idle) -> Outcome:
    conversation = context.conversation
    context.output.write(b"+ idling\r\n")
    context.metrics.add(m.IMAP_IDLING, 1)
    # First among those who are told, then what happened until now: nothing falls between.
    conversation.begin_idling()
    try:
        await conversation.tell_news()
        line = await conversation.wait_for_done()
    except LineTooLong:
        line = b""
    finally:
        context.metrics.add(m.IMAP_IDLING, -1)
        conversation.stop_idling()
    if line.upper() != b"DONE":
        return Bad("DONE was expected")
    return Ok("idled")


HANDLERS: Final[Mapping[type[Command], Handler]] = {Idle: idle}
