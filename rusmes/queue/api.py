"""How mail enters the engine, and how the queue is looked at and steered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from rusmes.model.mail import Mail
from rusmes.model.plan import Refusal
from rusmes.storage.api import ContentWriter, QueueEntry


class Outcome(Struct):
    """What became of an accepted or refused mail; `refusals` has one place for each recipient, in the envelope's order.

    SMTP replies with the refusal when every recipient has one; LMTP replies for each recipient. An accepted recipient's
    bytes are durable when this value exists.
    """

    refusals: list[Refusal | None]
    queue_ids: list[str]


class Intake(Protocol):
    """The only entrance for mail: SMTP, submission, LMTP, HTTP and the server itself."""

    def admit(self, size: int = 0) -> Refusal | None:
        """Whether a new transaction may start now; a refusal is temporary (452 4.3.1 no space, 421 4.3.2 overload)."""

    async def room_for(self, account: str, size: int) -> bool:
        """Whether one more message of `size` bytes (0 = not announced) fits the quota of a local account; asked at RCPT.

        True for an account without a quota or without a mailbox yet.
        """

    def writer(self) -> ContentWriter:
        """Where a body goes as it arrives; starts with the Received line its caller writes."""

    async def accept(self, mail: Mail) -> Outcome:
        """Run the pipeline, commit the plan, return what became of each recipient.

        Raises:
            StoreFull: 452 4.3.1; nothing was stored.
            StoreError: 451 4.3.0; nothing was stored.
        """


class QueueFilter(Struct, frozen=True):
    """Which entries an operation means; an empty field matches everything. Patterns are shell globs on folded addresses."""

    ids: tuple[str, ...] = ()
    sender: str = ""
    recipient: str = ""
    domain: str = ""
    status: str = ""
    account: str = ""
    older_than_seconds: float = 0.0


class QueueControl(Protocol):
    """The operator's hands on a queue; the CLI uses it through the control socket, or directly on a stopped server."""

    async def list(self, which: QueueFilter, *, limit: int = 0) -> Sequence[QueueEntry]: ...

    async def retry(self, which: QueueFilter) -> int:
        """Make matching recipients due now; the number of entries."""

    async def hold(self, which: QueueFilter) -> int: ...

    async def release(self, which: QueueFilter) -> int: ...

    async def delete(self, which: QueueFilter) -> int:
        """Remove without a bounce."""
