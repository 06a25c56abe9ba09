"""What a query finds, message by message, from whole messages: slow and plain."""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec import Struct

from rusmes._core.headers import HeaderScanner
from rusmes.mime.fields import parse_fields
from rusmes.model import query as q
from rusmes.model.ids import id_text
from rusmes.model.mailbox import Email, Message
from rusmes.search.sentdate import parse_sent_date
from tests.oracles import text_search


class Known(Struct):
    """A message with everything about it; `number` is its place in the mailbox."""

    number: int
    message: Message
    email: Email
    data: bytes
    """The blob, of which the email's prefix replaces `skip` octets."""
    saved: float


class Mailbox(Struct):
    known: list[Known]
    saved_uids: list[int]
    now: float


def found(mailbox: Mailbox, query: q.Query) -> list[int]:
    return [known.message.uid for known in mailbox.known if holds(mailbox, known, query)]


def _ordinal(seconds: float) -> int:
    return datetime.fromtimestamp(seconds, UTC).toordinal()


def _is(relation: str, day: int, wanted: int) -> bool:
    return {"before": day < wanted, "on": day == wanted, "since": day >= wanted}[relation]


def _in(numbers: q.SequenceSet, number: int, largest: int) -> bool:
    return any(
        min(a or largest, b or largest) <= number <= max(a or largest, b or largest) for a, b in numbers.ranges
    )  # fmt: skip


def holds(mailbox: Mailbox, known: Known, query: q.Query) -> bool:
    message, email = known.message, known.email
    match query:
        case q.Everything() | q.SaveDateSupported():
            return True
        case q.And(parts=parts):
            return all(holds(mailbox, known, part) for part in parts)
        case q.Or(parts=parts):
            return any(holds(mailbox, known, part) for part in parts)
        case q.Not(part=part):
            return not holds(mailbox, known, part)
        case q.Fuzzy(part=part):
            return holds(mailbox, known, part)
        case q.Numbers(set=numbers):
            return message.uid in mailbox.saved_uids if numbers.saved else _in(numbers, known.number, len(mailbox.known))
        case q.Uids(set=numbers):
            largest = mailbox.known[-1].message.uid
            return message.uid in mailbox.saved_uids if numbers.saved else _in(numbers, message.uid, largest)
        case q.HasFlag(flag=flag):
            return flag.lower() in [one.lower() for one in message.flags]
        case q.SizeAbove(size=size):
            return message.size > size
        case q.SizeBelow(size=size):
            return message.size < size
        case q.YoungerThan(seconds=seconds):
            return int(message.internal_date) >= mailbox.now - seconds
        case q.OlderThan(seconds=seconds):
            return int(message.internal_date) <= mailbox.now - seconds
        case q.ModifiedSince(modseq=modseq):
            return message.modseq >= modseq
        case q.EmailIdIs(id=id):
            return id_text(message.email_id) == id
        case q.ThreadIdIs(id=id):
            return id_text(email.thread_id) == id
        case q.DateIs(field="internal", relation=relation, day=day):
            return _is(relation, _ordinal(message.internal_date), day)
        case q.DateIs(field="saved", relation=relation, day=day):
            return _is(relation, _ordinal(known.saved), day)
    return _holds_text(known, query)


def _holds_text(known: Known, query: q.Query) -> bool:
    prefix, skip = known.email.prefix, known.email.skip
    scanner = HeaderScanner()
    scanner.feed(known.data)
    args = prefix, known.data, skip, scanner.size
    match query:
        case q.HeaderContains(name=name, text=text):
            return text_search.contains(text_search.HEADER, name.lower().encode(), text, *args)
        case q.TextContains(text=text):
            return text_search.contains(text_search.TEXT, b"", text, *args)
        case q.BodyContains(text=text):
            return text_search.contains(text_search.BODY, b"", text, *args)
        case q.DateIs(field="sent", relation=relation, day=day):
            fields = parse_fields(prefix) + parse_fields(known.data[skip : scanner.size])
            value = next((value for name, value in fields if name == b"date"), None)
            date = parse_sent_date(value) if value is not None else None
            return date is not None and _is(relation, date.day, day)
    raise TypeError(query)
