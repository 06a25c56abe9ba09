"""The contract of matchers and mailets, for ours and for third parties (entry points `rusmes.matchers`, `rusmes.mailets`).

A matcher:
1. is built once from its typed parameters, and refuses bad ones with ConfigError;
2. answers `match(mail)` synchronously with EVERYONE, NOBODY or a collection of the mail's recipients;
3. keeps no state between mails and does no I/O.

A mailet:
1. is built once from its typed parameters;
2. answers `service(mail)` with a Decision, or an awaitable of one; the decision is the effect;
3. may change the mail's headers, attributes and recipients; never its content's bytes;
4. changes `mail.recipients` by assigning a new list, never in place. A recipient made from another one names the envelope's
   addresses it stands for in `via` (see `Recipient.standing_for`); one that is left out ends in `Plan.dropped`;
5. may be cancelled (timeout, session budget) and is then run again from the mail as it was before.

Optional attributes of a mailet's class: `after_accept = True` runs it only once the client has its 250; `final = True` says
that it never answers with Continue. Optional methods of a mailet: `states()`, the processors it may send the mail to, and
`starts()`, those in which mails that it submits start. They serve the check of the configuration.

Parameters are a msgspec Struct named in `Parameters`; it is filled from the configuration's `params` in strict mode,
durations and sizes through the types of `rusmes.config.units`. What follows "=" in "Name=condition" fills the first field.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, Protocol

from msgspec import Struct

from rusmes._core.mailet import EVERYONE as EVERYONE
from rusmes._core.mailet import NOBODY as NOBODY
from rusmes._core.mailet import Everyone as Everyone
from rusmes.auth.api import Directory
from rusmes.bounces.addresses import ReturnAddresses
from rusmes.bounces.classify import Classifier
from rusmes.clock import Clock
from rusmes.model.address import Address
from rusmes.model.mail import Mail, Recipient
from rusmes.model.plan import Plan, Refusal

Match = Everyone | Collection[Recipient]
"""EVERYONE and NOBODY need no collection; the loop knows EVERYONE by identity."""


class Decision(Struct, frozen=True, gc=False, tag=True):
    """Root of the decisions."""


class Continue(Decision, frozen=True, gc=False):
    """Go on with the next step."""


class Drop(Decision, frozen=True, gc=False):
    reason: str


class Goto(Decision, frozen=True, gc=False):
    state: str


class Deliver(Decision, frozen=True, gc=False):
    """Append to a mailbox of each recipient's account."""

    mailbox: str = "INBOX"
    flags: tuple[str, ...] = ()


class RelayTo(Decision, frozen=True, gc=False):
    """Send to other servers. `route` names a smart host route; "" = the configured default (smart host or MX)."""

    route: str = ""


class Reject(Decision, frozen=True, gc=False):
    refusal: Refusal


class Defer(Decision, frozen=True, gc=False):
    """Come back to this step after `seconds`."""

    seconds: float
    reason: str = ""


class Bounce(Decision, frozen=True, gc=False):
    """Tell the sender by a failure notice; never for a null sender (RFC 5321 §6.1)."""

    reason: str
    status: str = "5.0.0"
    code: int = 550


class HoldMail(Decision, frozen=True, gc=False):
    """Keep for the operator."""

    reason: str


class Split(Decision, frozen=True):
    """Different decisions for different recipients; a recipient in no part goes on with the next step."""

    parts: tuple[tuple[tuple[Recipient, ...], Decision], ...]


class Submit(Decision, frozen=True):
    """Add new mails to the plan, each starting in its own `state`; then do `then` with this one."""

    mails: tuple[Mail, ...]
    then: Decision = Continue()


CONTINUE: Final = Continue()


class Matcher(Protocol):
    def match(self, mail: Mail) -> Match: ...


class Mailet(Protocol):
    def service(self, mail: Mail) -> Decision | Awaitable[Decision]: ...


class Notices(Protocol):
    """Makes the mails the server itself writes; implemented by `delivery.dsn`, handed over by `server.build`."""

    def failure(self, mail: Mail, recipients: Sequence[Recipient], refusal: Refusal) -> Mail | None:
        """A failure DSN (RFC 3464) to the sender; None when none may be sent (null sender, NOTIFY=NEVER)."""

    def expanded(self, mail: Mail, recipients: Sequence[Recipient]) -> Mail | None:
        """An "expanded" DSN to the sender who asked for SUCCESS; None when nobody did, or none may be sent."""


class Suppressions(Protocol):
    """The list of addresses to which nothing is sent any more; `returns.suppression` is it."""

    @property
    def is_enabled(self) -> bool: ...

    @property
    def drops(self) -> bool:
        """Whether a suppressed recipient ends without a word to the sender."""

    def find(self, tenant: str, address: Address) -> str:
        """The category for which nothing is sent to an address; "" = it may be."""

    def bounced(self, tenant: str, address: Address, category: str, reason: str) -> bool:
        """An address was refused for ever; whether it is suppressed by that."""

    def complained(self, tenant: str, address: Address, reason: str) -> None:
        """The user of an address wants no more of it."""

    def tenant_of(self, key: bytes) -> str:
        """The tenant behind `bounces.verp.tenant_key`; "" = nobody, or unknown."""


def _nothing(*_: object, **__: object) -> None: ...


def _uncounted(_: int) -> None: ...


class Toolbox(Struct):
    """What a mailet or matcher may use; given to its constructor."""

    directory: Directory
    clock: Clock
    notices: Notices
    new_id: Callable[[], bytes]
    hostname: str
    postmaster: str
    relay_networks: Sequence[Any]
    count: Callable[[str], None]
    """Adds one to the counter `rusmes_mailet_events_total{event=...}` (bounded labels)."""
    recipient_delimiter: str = "+"
    """[domains] recipient_delimiter: each of its characters is one; "" = no sub-addressing."""
    max_age_seconds: float = 5 * 86400.0
    """[queue] max_age: after that a mail that is refused for now is returned."""
    notary: Any = None
    """Keys and threads that sign (`mailet.notary.Notary`); None where nothing is signed (tests, tools)."""
    find_txt: Callable[[str], Awaitable[Sequence[bytes]]] | None = None
    """TXT records of a name (`dns.Resolver.txt`)."""
    inc: Callable[[int], None] = _uncounted
    """Adds one to a counter of `rusmes.metrics`."""
    returns: ReturnAddresses | None = None
    """The addresses that lead back here; None where none are made (tests, tools)."""
    classifier: Classifier | None = None
    """What refusals mean."""
    suppressions: Suppressions | None = None
    """To whom nothing is sent any more."""
    record: Callable[..., None] = _nothing
    """`events.api.Events.changed`."""
    keep_reports: bool = False
    """[returns] keep_reports."""


class MatcherClass(Protocol):
    @property
    def Parameters(self) -> type[Struct]: ...

    def __call__(self, parameters: Any, toolbox: Toolbox) -> Matcher: ...


class MailetClass(Protocol):
    @property
    def Parameters(self) -> type[Struct]: ...

    def __call__(self, parameters: Any, toolbox: Toolbox) -> Mailet: ...


class PipelineRunner(Protocol):
    """What intake and queue see of the pipeline (`mailet.pipeline.Pipeline`)."""

    async def run(self, mail: Mail, *, deadline: float | None = None) -> Plan:
        """Decide about a mail, from (`mail.state`, `mail.step`) on.

        With a `deadline` (clock.monotonic() seconds) the client still waits: a Reject is in `Plan.refused`, and what does not
        end in time, or must run after acceptance, is a `resume` entry. Without one the mail is already ours: a permanent
        Reject becomes a failure notice, a temporary one a later attempt.

        To go on with a `resume` entry, make the Mail from it with its id, content (`rendering.content`) and a copy of its
        attributes, `state` and `step`; header edits, hops and error come back out of the attributes.

        Raises:
            StoreError: a notice could not be written; nothing was decided.
        """

    def start(self, mail: Mail, *, deadline: float | None = None) -> Plan | Awaitable[Plan]:
        """Like `run`; the plan at once when no mailet has to be waited for, else what has to be awaited."""
