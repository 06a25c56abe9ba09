"""What decisions mean: the plan of one run of the pipeline. (Long because each decision and each end is here, once.)

Every recipient ends in exactly one place of the plan. Rules that are not a decision's own words:

1. A failure (exception, hop budget, unknown state, recipients left undecided) sends the mail to the `error` processor with the
   reason; a failure inside `error` is a hold with the reason.
2. A Reject reaches the client only while it waits, and only for an address of the envelope with no other fate: when an alias
   led to several recipients and one of them is accepted, the refusal of another becomes a failure notice. SMTP has one
   reply for all: when it says 250 for others, who was refused for now is tried again later, as after acceptance.
3. After acceptance a permanent Reject becomes a failure notice (RFC 5321 §6.1), a temporary one a later attempt, until the
   mail is too old.
4. Nothing is sent to a null reverse-path (RFC 5321 §4.5.5): such a recipient is dropped, with the reason.
5. Mails made on the way (notices, copies) run after the mail itself, into the same plan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from rusmes._core.mailet import EVERYONE, Everyone, Step, fork
from rusmes.errors import AuthUnavailable, StoreError
from rusmes.log import get_logger
from rusmes.mailet.api import (
    Bounce,
    Continue,
    Decision,
    Defer,
    Deliver,
    Drop,
    Goto,
    HoldMail,
    Reject,
    RelayTo,
    Split,
    Submit,
    Toolbox,
)
from rusmes.mailet.rendering import NO_LINES, Renderings
from rusmes.mailet.resume import DEFERRALS, FAILED, SENT_BY, pack
from rusmes.metrics import PIPELINE_ERRORS, Metrics
from rusmes.model.address import Address
from rusmes.model.content import Rendering
from rusmes.model.mail import Mail, Recipient, Value
from rusmes.model.plan import Append, Plan, Queued, Refusal

MAX_HOPS: Final = 100
"""Processor changes of one mail; the predecessor had 100 too, Apache James runs into its stack's end."""
CHANGES_FOR_ALL: Final = 1000
CHANGES_EACH: Final = 10
"""Processor changes of all parts of a run: 1000, and 10 more for each recipient and each new mail. Where processors go round
and a Forward in them adds recipients, parts double at each turn; the hop budget of each part alone allows 2^100 turns."""
MAX_SUBMITTED: Final = 1000
"""Mails that one run may add to its plan."""
RETRY_SECONDS: Final = 300.0
"""When a temporary Reject after acceptance is tried again."""
TEMPORARY: Final = Refusal(451, "4.3.0", "temporary failure of the directory, try again later")

Outcome = tuple[Sequence[Mail], Sequence[Mail]] | None
"""None: the mail ended. Else mails that go on with the next step, and mails that go where their state and step say."""

_log = get_logger("mailet")


class Settlement:
    """Turns the decisions about one mail, and about those made on the way, into a plan."""

    __slots__ = (
        "_chains",
        "_changes_left",
        "_in_session",
        "_metrics",
        "_pending",
        "_refused",
        "_renderings",
        "_rewritten",
        "_submitted",
        "_toolbox",
        "plan",
    )

    def __init__(
        self,
        toolbox: Toolbox,
        chains: dict[str, list[Step]],
        in_session: bool,
        recipient_count: int,
        metrics: Metrics | None = None,
    ) -> None:
        self.plan = Plan()
        self._toolbox = toolbox
        self._chains = chains
        self._in_session = in_session
        self._metrics = metrics
        self._renderings = Renderings()
        self._refused: list[tuple[Mail, Recipient, Refusal, Step]] = []
        self._pending: deque[Mail] | None = None
        self._submitted = 0
        self._changes_left = CHANGES_FOR_ALL + CHANGES_EACH * recipient_count
        self._rewritten = False

    # Called by the loop

    def decide(self, mail: Mail, decision: Decision, step: Step) -> Outcome:
        act = _ACTIONS.get(type(decision))
        if act is None:
            return self.mailet_failed(mail, step, TypeError(f"{type(decision).__name__} is no decision of the pipeline"))
        return act(self, mail, decision, step)

    def match_failed(self, mail: Mail, step: Step, error: Exception) -> Outcome | Everyone:
        self._report("matcher", step, error)
        wanted = step.on_match_exception
        if wanted == "matchall":
            return EVERYONE
        if wanted == "nomatch":
            return (mail,), ()
        return self._exception(mail, step, error, wanted)

    def mailet_failed(self, mail: Mail, step: Step, error: Exception) -> Outcome:
        if isinstance(error, StoreError):
            raise error
        self._report("timeout" if isinstance(error, StepTimeout) else "mailet", step, error)
        wanted = step.on_mailet_exception
        if wanted == "ignore":
            return (mail,), ()
        if wanted == "error" and isinstance(error, AuthUnavailable):
            return self._reject(mail, Reject(TEMPORARY), step)
        return self._exception(mail, step, error, wanted)

    def undecided(self, mail: Mail) -> Outcome:
        return self._fail(mail, 0, f"undecided at the end of processor {mail.state!r}")

    def unknown_state(self, mail: Mail) -> Outcome:
        """A mail that comes from the queue, or from a mailet, names a state that is not there."""
        return self._fail(mail, 0, f"no processor handles the state {mail.state!r}")

    def suspend(self, mail: Mail, step: Step) -> None:
        """Go on later, at this step."""
        self._queue(mail, "resume", state=mail.state, step=step.index)

    def recipients_changed(self, mail: Mail, before: list[Recipient], before_count: int, step: Step) -> None:
        """Account for recipients that a mailet replaced or left out; merge those that are named twice.

        Raises:
            RuntimeError: the mailet changed the list in place, so nobody knows who was in it.
        """
        if mail.recipients is before:
            raise RuntimeError(f"{step.label} changed mail.recipients in place ({before_count} to {len(before)})")
        self._rewritten = True
        mail.recipients = merged(mail.recipients)
        stands = {address for recipient in mail.recipients for address in recipient.standing_for}
        present = {recipient.address for recipient in mail.recipients}
        for recipient in before:
            if recipient.address in present:
                continue
            lines = mail.per_recipient.pop(recipient.address, None)
            missing = tuple(address for address in recipient.standing_for if address not in stands)
            if missing:
                gone = msgspec.structs.replace(recipient, via=missing) if recipient.via else recipient
                self.plan.dropped.append((gone, f"removed by {step.label}"))
            if lines:
                heirs = [r for r in mail.recipients if not set(r.standing_for).isdisjoint(recipient.standing_for)]
                for heir in heirs:
                    mail.per_recipient[heir.address] = lines + mail.per_recipient.get(heir.address, NO_LINES)

    # Called by the pipeline

    def next_mail(self) -> Mail | None:
        """A mail made on the way that has not run yet; when there is none, the plan takes its final form."""
        if not self._pending and self._refused:
            self._settle_refusals()
        if self._pending:
            return self._pending.popleft()
        if self._rewritten:
            merge_twins(self.plan)
        return None

    # Decisions

    def _continue(self, mail: Mail, decision: Continue, step: Step) -> Outcome:
        return (mail,), ()

    def _deliver(self, mail: Mail, decision: Deliver, step: Step) -> Outcome:
        recipients = mail.recipients
        strangers = [recipient for recipient in recipients if not recipient.account]
        if strangers:
            part, rest = _divide(mail, strangers)
            outcome = self._fail(part, step.index, f"{step.label}: {strangers[0].address} delivers to no local account")
            return outcome if not rest.recipients else _joined(outcome, self._deliver(rest, decision, step))
        appends = self.plan.appends
        shared = None
        for recipient in recipients:
            lines = mail.per_recipient.get(recipient.address, NO_LINES) if mail.per_recipient else NO_LINES
            if lines or shared is None:
                rendering = self._renderings.delivered(mail, lines)
                if not lines:
                    shared = rendering
            else:
                rendering = shared
            appends.append(Append(recipient, recipient.account, rendering, decision.mailbox, decision.flags, b"", mail.created))
        return None

    def _relay(self, mail: Mail, decision: RelayTo, step: Step) -> Outcome:
        if not mail.per_recipient:
            self._queue(mail, "relay", rendering=self._renderings.relayed(mail), route=decision.route)
            return None
        groups: dict[tuple[bytes, ...], list[Recipient]] = {}
        for recipient in mail.recipients:
            groups.setdefault(mail.per_recipient.get(recipient.address, NO_LINES), []).append(recipient)
        for lines, members in groups.items():
            rendering = self._renderings.relayed(mail, lines)
            self._queue(mail, "relay", recipients=members, rendering=rendering, route=decision.route)
        return None

    def _drop(self, mail: Mail, decision: Drop, step: Step) -> Outcome:
        self._drop_all(mail.recipients, decision.reason)
        return None

    def _goto(self, mail: Mail, decision: Goto, step: Step) -> Outcome:
        if decision.state not in self._chains:
            return self._fail(mail, step.index, f"no processor handles the state {decision.state!r}")
        mail.hops += 1
        self._changes_left -= 1
        if self._changes_left < 0:
            self._hold_mail(mail, step.index, f"processors that go round and add recipients, at {step.label}")
            return None
        if mail.hops > MAX_HOPS:
            return self._fail(mail, step.index, f"more than {MAX_HOPS} processor changes, the last one to {decision.state!r}")
        mail.state, mail.step = decision.state, 0
        return (), (mail,)

    def _reject(self, mail: Mail, decision: Reject, step: Step) -> Outcome:
        refusal = decision.refusal
        if self._in_session and SENT_BY not in mail.attributes:
            self._refused.extend((mail, recipient, refusal, step) for recipient in mail.recipients)
        elif refusal.is_permanent:
            self._bounce_all(mail, mail.recipients, refusal)
        elif self._toolbox.clock.now() - mail.created >= self._toolbox.max_age_seconds:
            text = f"not delivered in time; at last: {refusal.code} {refusal.status} {refusal.text}"
            self._bounce_all(mail, mail.recipients, Refusal(refusal.code, "4.4.7", text))
        else:
            self._defer(mail, Defer(RETRY_SECONDS, refusal.text), step)
        return None

    def _bounce(self, mail: Mail, decision: Bounce, step: Step) -> Outcome:
        self._bounce_all(mail, mail.recipients, Refusal(decision.code, decision.status, decision.reason))
        return None

    def _hold(self, mail: Mail, decision: HoldMail, step: Step) -> Outcome:
        self._hold_mail(mail, step.index, decision.reason)
        return None

    def _defer(self, mail: Mail, decision: Defer, step: Step) -> Outcome:
        count = mail.attributes.get(DEFERRALS, 0)
        mail.attributes[DEFERRALS] = count + 1 if isinstance(count, int) else 1
        due = self._toolbox.clock.now() + max(0.0, decision.seconds)
        self._queue(mail, "resume", state=mail.state, step=step.index, due=due, reason=decision.reason)
        return None

    def _split(self, mail: Mail, decision: Split, step: Step) -> Outcome:
        staying: list[Mail] = []
        moving: list[Mail] = []
        rest = mail
        for recipients, part_decision in decision.parts:
            if not recipients:
                continue
            part, rest = _divide(rest, recipients)
            if len(part.recipients) != len(recipients):
                error = ValueError(f"{step.label} decided about a recipient that is not there, or twice about one")
                rest.recipients = part.recipients + rest.recipients
                return _joined((staying, moving), self.mailet_failed(rest, step, error))
            more_staying, more_moving = self.decide(part, part_decision, step) or NOWHERE
            staying += more_staying
            moving += more_moving
        if rest.recipients:
            staying.append(rest)
        return staying, moving

    def _submit(self, mail: Mail, decision: Submit, step: Step) -> Outcome:
        for made in decision.mails:
            made.attributes.setdefault(SENT_BY, step.label.rpartition("=>")[2])
            if not self._submit_mail(made, mail.hops):
                return self._fail(mail, step.index, f"{step.label} added more mails than a plan may have")
        return self.decide(mail, decision.then, step)

    # Ends

    def _queue(
        self,
        mail: Mail,
        action: str,
        *,
        recipients: Sequence[Recipient] | None = None,
        rendering: Rendering | None = None,
        route: str = "",
        state: str = "",
        step: int = 0,
        due: float = 0.0,
        reason: str = "",
    ) -> None:
        attributes: dict[str, Value]
        if rendering is None:
            rendering = self._renderings.as_is(mail.content)
            steps = self._chains.get(state, [])
            attributes = pack(mail, steps[step].label if step < len(steps) else "")
        else:
            attributes = dict(mail.attributes)
        self.plan.queued.append(
            Queued(
                self._toolbox.new_id(),
                action,
                mail.sender,
                tuple(mail.recipients if recipients is None else recipients),
                rendering,
                mail.origin,
                mail.created,
                route,
                "",
                state,
                step,
                due,
                reason,
                attributes,
                mail.body_type,
                mail.smtputf8,
                mail.requiretls,
                mail.ret,
                mail.envid,
                rendering.size,
            )
        )

    def _hold_mail(self, mail: Mail, index: int, reason: str) -> None:
        """Keep for the operator. A release goes on where the failure was, else after this step, else from the beginning."""
        failed = mail.attributes.get(FAILED) if mail.state == "error" else None
        if isinstance(failed, tuple) and len(failed) == 2 and failed[0] in self._chains:
            state, step = failed[0], int(failed[1])
        elif mail.state != "error" and index + 1 < len(self._chains.get(mail.state, ())):
            state, step = mail.state, index + 1
        else:
            state, step = "root", 0
        kept = mail
        if mail.hops or mail.attributes or mail.state == "error":  # else there is nothing to forget
            kept = fork(mail, mail.recipients)
            kept.attributes.pop(FAILED, None)
            kept.hops = 0
            if mail.state == "error":
                kept.error = ""
        self._queue(kept, "hold", state=state, step=step, reason=reason or mail.error or f"held by processor {mail.state!r}")

    def _drop_all(self, recipients: Sequence[Recipient], reason: str) -> None:
        self.plan.dropped.extend((recipient, reason) for recipient in recipients)

    def _bounce_all(self, mail: Mail, recipients: Sequence[Recipient], refusal: Refusal) -> None:
        if mail.sender is None:
            reason = f"{refusal.text} (no notice: the reverse-path is null)"
            _log.warn("undeliverable mail from the null sender dropped", reason=refusal.text, recipients=len(recipients))
            self._drop_all(recipients, reason)
            return
        notice = self._toolbox.notices.failure(mail, recipients, refusal)
        if notice is None:
            self._drop_all(recipients, f"{refusal.text} (no notice is wanted)")
            return
        notice.attributes.setdefault(SENT_BY, "notice")
        if self._submit_mail(notice, mail.hops):
            self._drop_all(recipients, f"bounced: {refusal.text}")
        else:
            part = fork(mail, list(recipients))
            self._hold_mail(part, 0, "a plan has no room for another notice")

    def _submit_mail(self, made: Mail, hops: int) -> bool:
        """Run a mail of our own making after this one; the local configuration chose its recipients."""
        self._submitted += 1
        if self._submitted > MAX_SUBMITTED:
            return False
        made.hops = hops + 1
        made.recipients = [
            recipient if recipient.forwarded else msgspec.structs.replace(recipient, forwarded=True)
            for recipient in merged(made.recipients)
        ]
        self._changes_left += CHANGES_EACH
        if self._pending is None:
            self._pending = deque()
        self._pending.append(made)
        return True

    # Failures

    def _exception(self, mail: Mail, step: Step, error: Exception, state: str) -> Outcome:
        reason = f"{step.label}: {type(error).__name__}: {error}"
        if state == "error" or state == mail.state:
            return self._fail(mail, step.index, reason)
        mail.error = reason
        return self._goto(mail, Goto(state), step)

    def _fail(self, mail: Mail, index: int, reason: str) -> Outcome:
        if mail.state == "error":
            self._hold_mail(mail, index, f"{mail.error}; then {reason}" if mail.error else reason)
            return None
        _log.warn("mail sent to the error processor", reason=reason, state=mail.state, step=index)
        mail.error = reason
        mail.attributes[FAILED] = (mail.state, str(index))
        mail.state, mail.step = "error", 0
        return (), (mail,)

    def _report(self, kind: str, step: Step, error: Exception) -> None:
        _log.warn(
            "pipeline step failed", step=step.label, state=step.state, index=step.index, error=repr(error), exc_info=error
        )
        if self._metrics is not None:
            self._metrics.inc(PIPELINE_ERRORS[kind])

    # Refusals

    def _settle_refusals(self) -> None:
        """Rule 2 of this module."""
        refused, self._refused = self._refused, []
        plan = self.plan
        accepted: set[Address] = set()
        for append in plan.appends:
            accepted.update(append.recipient.standing_for)
        for queued in plan.queued:
            for recipient in queued.recipients:
                accepted.update(recipient.standing_for)
        for recipient, _ in plan.dropped:
            accepted.update(recipient.standing_for)
        if accepted:
            for mail, recipient, refusal, _ in refused:
                if not refusal.is_permanent and mail.origin.listener != "lmtp":
                    accepted.update(recipient.standing_for)
        bounced: dict[tuple[int, Refusal], tuple[Mail, list[Recipient], Step]] = {}
        for mail, recipient, refusal, step in refused:
            only_here = [address for address in recipient.standing_for if address not in accepted]
            for address in only_here:
                known = plan.refused.get(address)
                if known is None or (known.is_permanent and not refusal.is_permanent):
                    plan.refused[address] = refusal
            if len(only_here) < len(recipient.standing_for):
                rest = tuple(address for address in recipient.standing_for if address in accepted)
                half = msgspec.structs.replace(recipient, via=rest)
                bounced.setdefault((id(mail), refusal), (mail, [], step))[1].append(half)
        for (_, refusal), (mail, recipients, step) in bounced.items():
            part = fork(mail, recipients)
            if refusal.is_permanent:
                self._bounce_all(part, recipients, refusal)
            else:
                self._defer(part, Defer(RETRY_SECONDS, refusal.text), step)


class StepTimeout(Exception):
    """A mailet took longer than its step allows."""


NOWHERE: Final[tuple[Sequence[Mail], Sequence[Mail]]] = ((), ())


def merged(recipients: list[Recipient]) -> list[Recipient]:
    """Each address once; a recipient that was there twice stands for the envelope's addresses of both."""
    if len(recipients) < 2:
        return recipients
    by_address: dict[Address, Recipient] = {}
    for recipient in recipients:
        known = by_address.get(recipient.address)
        if known is None:
            by_address[recipient.address] = recipient
        elif known.via or recipient.via:
            by_address[recipient.address] = _union(known, recipient)
    return recipients if len(by_address) == len(recipients) else list(by_address.values())


def merge_twins(plan: Plan) -> None:
    """Who is reached by two ways after recipients were rewritten gets the same message once: one append, one relay."""
    appends: dict[tuple[Address, str, int], Append] = {}
    for append in plan.appends:
        key = (append.recipient.address, append.mailbox, id(append.rendering))
        known = appends.setdefault(key, append)
        if known is not append:
            known.recipient = _union(known.recipient, append.recipient)
    plan.appends = list(appends.values())
    relays: dict[tuple[Address, str, int], tuple[Queued, int]] = {}
    for row in plan.queued:
        if row.action != "relay":
            continue
        kept: list[Recipient] = []
        for recipient in row.recipients:
            key = (recipient.address, row.route, id(row.rendering))
            if key not in relays:
                relays[key] = (row, len(kept))
                kept.append(recipient)
                continue
            other, place = relays[key]
            members = kept if other is row else list(other.recipients)
            members[place] = _union(members[place], recipient)
            if other is not row:
                other.recipients = tuple(members)
        row.recipients = tuple(kept)
    plan.queued = [row for row in plan.queued if row.recipients]


def _union(one: Recipient, other: Recipient) -> Recipient:
    via = tuple(dict.fromkeys(one.standing_for + other.standing_for))
    return msgspec.structs.replace(one, via=via, forwarded=one.forwarded or other.forwarded)


def _divide(mail: Mail, recipients: Sequence[Recipient]) -> tuple[Mail, Mail]:
    """A part with those of `recipients` that are there, and one with the others."""
    wanted = {recipient.address for recipient in recipients}
    inside = [recipient for recipient in mail.recipients if recipient.address in wanted]
    outside = [recipient for recipient in mail.recipients if recipient.address not in wanted]
    return fork(mail, inside), fork(mail, outside)


def _joined(one: Outcome, other: Outcome) -> Outcome:
    staying, moving = one or NOWHERE
    more_staying, more_moving = other or NOWHERE
    return (*staying, *more_staying), (*moving, *more_moving)


_ACTIONS: Final[dict[type[Decision], Callable[..., Outcome]]] = {
    Continue: Settlement._continue,
    Deliver: Settlement._deliver,
    RelayTo: Settlement._relay,
    Drop: Settlement._drop,
    Goto: Settlement._goto,
    Reject: Settlement._reject,
    Bounce: Settlement._bounce,
    HoldMail: Settlement._hold,
    Defer: Settlement._defer,
    Split: Settlement._split,
    Submit: Settlement._submit,
}
