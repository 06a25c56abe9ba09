"""Which entries and recipients a filter means.

A filter that names recipients is about these recipients alone: the others of an entry are not meant. An entry whose way through
the pipeline is not over has no fates of its own for them; it is meant as a whole when one of them matches.

Where a recipient's mail goes (its site, the source it leaves by) is known to the deliverer only, and may have to be looked up.
So a selection that asks for it is `resolve`d for some entries before it is asked about them.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable, Iterable, Sequence
from email import policy
from email.parser import BytesHeaderParser
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from typing import Any, Final

from msgspec import structs

from rusmes.errors import NotAllowed, StoreError
from rusmes.model.ids import id_text
from rusmes.model.plan import Queued
from rusmes.queue.api import Deliverer, QueueFilter, Target, campaign_of, tenant_of
from rusmes.queue.entry import UNFINISHED
from rusmes.storage.api import QueueEntry, RecipientState

ENDS: Final = frozenset({"relay", "local"})
"""Entries whose recipients have a fate each; the others (hold, resume) go on in the pipeline together."""
MAX_PATTERN_CHARS: Final = 500
SEARCH_SECONDS: Final = 0.05
"""CPU time of a pattern on one reply. A reply has at most 1000 characters, which an ordinary pattern takes microseconds for."""
MAX_ANSWERS: Final = 20_000
"""Replies whose answer is remembered: most mail that waits has one of few."""
MAX_QUESTIONS: Final = 64
"""Destinations that are looked up at once."""
MAX_PLACES: Final = 200_000
"""Destinations remembered by one operation, about 200 bytes each."""
MAX_HEADER_BYTES: Final = 256 * 1024

Match = Callable[[str], bool]


class Places:
    """The sites and sources of recipients, as far as they were looked up."""

    def __init__(self, deliverer: Deliverer) -> None:
        self._deliverer = deliverer
        self._found: dict[str, tuple[str, str]] = {}

    def of(self, item: Queued, state: RecipientState) -> tuple[str, str] | None:
        """(site, source); None: not known yet. A destination that takes no mail has neither."""
        if item.action != "relay":
            return "", ""
        destination = self._deliverer.destination(item, state.recipient)
        found = self._found.get(destination)
        if found is None and (target := self._deliverer.known_target(destination)) is not None:
            found = self._remember(destination, target)
        return found

    def _remember(self, destination: str, target: object) -> tuple[str, str]:
        if len(self._found) >= MAX_PLACES:
            self._found.clear()
        found = (target.site, target.source) if isinstance(target, Target) else ("", "")
        self._found[destination] = found
        return found

    async def resolve(self, entries: Sequence[QueueEntry]) -> None:
        """Look up where the recipients of these entries go."""
        unknown = {
            self._deliverer.destination(entry.item, state.recipient)
            for entry in entries
            for state in entry.states
            if state.status in UNFINISHED and self.of(entry.item, state) is None
        }
        for part in _parts(sorted(unknown), MAX_QUESTIONS):
            answers = await asyncio.gather(*map(self._deliverer.find_target, part), return_exceptions=True)
            for destination, answer in zip(part, answers, strict=True):
                self._remember(destination, answer)


class Selection:
    """A filter, made ready. `now` is the time against which ages count.

    Raises:
        NotAllowed: a pattern, an id or an address of the filter is none.
    """

    def __init__(self, which: QueueFilter, now: float, places: Places | None = None) -> None:
        self.which = which
        self._now = now
        self._ids = frozenset(text.lower() for text in which.ids)
        self._sender = _glob(which.sender)
        self._account = _glob(which.account)
        self._tenant = _glob(which.tenant, fold=False)
        self._campaign = _glob(which.campaign, fold=False)
        self._client = _network(which.client)
        self._message_id = f"<{which.message_id.strip().strip('<>')}>" if which.message_id else ""
        self._header = _header(which.header)
        self._recipient = _glob(which.recipient)
        self._domain = _glob(which.domain)
        self._site = _glob(which.site)
        self._source = _glob(which.source, fold=False)
        self._reply = ReplyPattern(which.reply) if which.reply else None
        self._places = places
        if which.needs_places and places is None:
            raise NotAllowed("where mail goes is known to a running server only", "select by domain, or start the server")
        self._is_about_recipients = which.is_about_recipients

    async def resolve(self, entries: Sequence[QueueEntry]) -> bool:
        """Learn what has to be known about these entries; whether that took time, in which they may have changed."""
        if self._places is None or not self.which.needs_places:
            return False
        places = self._places
        unknown = [
            entry
            for entry in entries
            if self._means_entry(entry)
            and any(state.status in UNFINISHED and places.of(entry.item, state) is None for state in entry.states)
        ]
        if unknown:
            await places.resolve(unknown)
        return bool(unknown)

    def meant(self, entry: QueueEntry) -> list[int]:
        """The recipients without an end that are meant, by index; none: the entry is not meant."""
        if not self._means_entry(entry):
            return []
        open_ones = [index for index, state in enumerate(entry.states) if state.status in UNFINISHED]
        if not self._is_about_recipients:
            return open_ones
        item = entry.item
        chosen = [index for index in open_ones if self._means_recipient(item, entry.states[index])]
        return chosen if not chosen or item.action in ENDS else open_ones

    def means_all(self, entry: QueueEntry) -> bool:
        """Whether all recipients without an end match, each for itself."""
        if not self._means_entry(entry):
            return False
        states = [state for state in entry.states if state.status in UNFINISHED]
        return not self._is_about_recipients or all(self._means_recipient(entry.item, state) for state in states)

    def _means_entry(self, entry: QueueEntry) -> bool:
        which, item = self.which, entry.item
        if self._ids and id_text(item.id) not in self._ids:
            return False
        age = self._now - item.created
        if which.older_than_seconds and age < which.older_than_seconds:
            return False
        if which.younger_than_seconds and age >= which.younger_than_seconds:
            return False
        if which.larger_than_bytes and item.rendering.size <= which.larger_than_bytes:
            return False
        if which.smaller_than_bytes and item.rendering.size >= which.smaller_than_bytes:
            return False
        if self._account is not None and not self._account(item.origin.account.lower()):
            return False
        if self._sender is not None and not self._sender(item.sender.folded if item.sender is not None else "<>"):
            return False
        if self._tenant is not None and not self._tenant(tenant_of(item)):
            return False
        if self._campaign is not None and not self._campaign(campaign_of(item)):
            return False
        if self._client is not None and not self._client(item.origin.client_address):
            return False
        return not (self._message_id or self._header is not None) or self._means_header(item)

    def _means_header(self, item: Queued) -> bool:
        """Read from the store, so it is the last question about an entry."""
        try:
            block = item.rendering.header_block()[:MAX_HEADER_BYTES]
        except (StoreError, OSError):
            return False  # what cannot be read matches nothing
        header = BytesHeaderParser(policy=policy.compat32).parsebytes(block)
        if self._message_id and str(header.get("Message-ID", "")).strip() != self._message_id:
            return False
        if self._header is None:
            return True
        name, pattern = self._header
        return any(fnmatchcase(" ".join(str(value).split()).lower(), pattern) for value in header.get_all(name, []))

    def _means_recipient(self, item: Queued, state: RecipientState) -> bool:
        which = self.which
        if which.status and which.status != ("held" if item.action == "hold" else state.status):
            return False
        if which.attempts_at_least and state.attempts < which.attempts_at_least:
            return False
        if which.attempts_at_most >= 0 and state.attempts > which.attempts_at_most:
            return False
        address = state.recipient.address
        if self._domain is not None and not self._domain(address.domain):
            return False
        if self._recipient is not None and not self._recipient(address.folded):
            return False
        if self._reply is not None and not self._reply.is_in(state.last_reply):
            return False
        return not which.needs_places or self._means_place(item, state)

    def _means_place(self, item: Queued, state: RecipientState) -> bool:
        found = self._places.of(item, state) if self._places is not None else None
        if found is None:
            return False
        site, source = found
        if self._source is not None and not self._source(source):
            return False
        # A site is named as lists show it, or by one of its hosts.
        return self._site is None or self._site(site.lower()) or any(map(self._site, site.lower().split(",")))


class ReplyPattern:
    """A regular expression for replies, case-insensitive, that costs at most `SEARCH_SECONDS` for a reply.

    Replies are strangers' text, and some patterns take years for some texts. Python's engine looks at signals while it
    searches, so a timer of CPU time ends such a search.
    """

    def __init__(self, pattern: str) -> None:
        """Raises NotAllowed."""
        if len(pattern) > MAX_PATTERN_CHARS:
            raise NotAllowed("the reply pattern is too long", f"at most {MAX_PATTERN_CHARS} characters")
        try:
            self._search = re.compile(pattern, re.IGNORECASE).search
        except (re.error, OverflowError, RecursionError) as error:
            raise NotAllowed("the reply pattern is no regular expression", str(error)) from None
        self._answers: dict[str, bool] = {}

    def is_in(self, reply: str) -> bool:
        """Raises NotAllowed: the search takes too long."""
        answer = self._answers.get(reply)
        if answer is None:
            if len(self._answers) >= MAX_ANSWERS:
                self._answers.clear()
            answer = self._answers[reply] = self._is_found(reply)
        return answer

    def _is_found(self, reply: str) -> bool:
        is_armed = True

        def ring(_number: int, _frame: Any) -> None:
            if is_armed:
                raise TimeoutError

        before = signal.signal(signal.SIGVTALRM, ring)
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, SEARCH_SECONDS)
            return self._search(reply) is not None
        except TimeoutError:
            raise NotAllowed("the reply pattern takes too long", f"on {reply[:60]!r}; make it simpler") from None
        finally:
            is_armed = False
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
            signal.signal(signal.SIGVTALRM, before or signal.SIG_DFL)


def check_filter(which: QueueFilter) -> None:
    """Raises NotAllowed: a pattern, an address or a network of the filter is none."""
    Selection(structs.replace(which, site="", source=""), 0.0)


def _glob(pattern: str, *, fold: bool = True) -> Match | None:
    """A shell glob as a question; None: everything matches."""
    if not pattern:
        return None
    pattern = pattern.lower() if fold else pattern
    if not any(char in pattern for char in "*?["):
        return pattern.__eq__
    return lambda text: fnmatchcase(text, pattern)


def _network(text: str) -> Match | None:
    """Raises NotAllowed."""
    if not text:
        return None
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise NotAllowed(f'"{text}" is no address or network of a client') from None

    def contains(address: str) -> bool:
        try:
            return ip_address(address) in network
        except ValueError:
            return False

    return contains


def _header(text: str) -> tuple[str, str] | None:
    """Raises NotAllowed."""
    if not text:
        return None
    name, colon, pattern = text.partition(":")
    if not colon or not name.strip() or not pattern.strip():
        raise NotAllowed(f'"{text}" is no header field and pattern', 'as in "Subject: *invoice*"')
    return name.strip(), pattern.strip().lower()


def _parts(names: list[str], most: int) -> Iterable[list[str]]:
    return (names[start : start + most] for start in range(0, len(names), most))
