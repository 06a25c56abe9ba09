"""The history of a message or a recipient, found by the indexes of the event log.

An id leads to the events that name it; events name further ids (a message's entries, the entries that took another one's
place), and those are looked up too, until nothing new appears. A recipient's events are not followed. Ids begin with their
time, so files that were complete before an id was made are not opened. Newest files first, so that with too many events it is
the oldest that are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from rusmes._core.events import queue_key, text_key
from rusmes.events.segments import Event, Segment, SegmentReader, decoded, keys_of, segments_of
from rusmes.model.ids import parse_id

MAX_EVENTS: Final = 1000
MAX_IDS: Final = 100
"""Entries that are followed."""
CLOCK_MARGIN_SECONDS: Final = 600.0
"""A clock that was set back makes an event older than its id."""
ATTEMPTS: Final = 3
"""Files may be sealed or removed while we look."""


class History(Struct):
    """What was found, in the order of time."""

    events: list[Event]
    ids: list[str]
    """Of the entries, in the order of their making."""
    is_cut: bool = False
    """There are more events than MAX_EVENTS, or more entries than MAX_IDS."""


def find_history(directory: str, text: str, *, limit: int = MAX_EVENTS) -> History:
    """Everything about a queue id, a Message-ID (with or without its brackets) or a recipient's address.

    Raises:
        OSError: the directory cannot be read.
    """
    found: dict[tuple[str, str, int], Event] = {}
    ids: dict[str, None] = {}
    is_cut = False
    segments = segments_of(directory)[::-1]
    wanted, followed = _keys(text)
    seen = set(wanted)
    while wanted:
        following: dict[bytes, float] = {}
        for place, event, key in _look_up(segments, wanted):
            if place in found:
                continue
            if len(found) >= limit:
                is_cut = True
                break
            found[place] = event
            for id in ids_of(event):
                id_key = queue_key(parse_id(id))
                if len(ids) >= MAX_IDS and id not in ids:
                    is_cut = is_cut or key in followed
                    continue
                ids.setdefault(id)
                if id_key not in seen and key in followed:
                    seen.add(id_key)
                    following[id_key] = _born(id)
        followed |= set(following)
        wanted = following
    # Events of one millisecond stay in the order in which they were written.
    events = [event for _, event in sorted(found.items(), key=lambda one: (str(one[1].get("time", "")), one[0]))]
    return History(events, sorted(ids), is_cut)


def _keys(text: str) -> tuple[dict[bytes, float], set[bytes]]:
    """What a text may be, with the time before which there is nothing of it; and what of it is followed."""
    text = text.strip()
    try:
        key = queue_key(parse_id(text))
        return {key: _born(text)}, {key}
    except ValueError:
        pass
    bare = text.removeprefix("<").removesuffix(">")
    messages = {text_key("m", f"<{bare}>"), text_key("m", bare)}
    # A Message-ID without its brackets looks like an address.
    addresses = {text_key("r", text)} if "@" in text and not text.startswith("<") else set()
    return dict.fromkeys(messages | addresses, 0.0), messages


def _born(id: str) -> float:
    return int.from_bytes(parse_id(id)[:6], "big") / 1000


def ids_of(event: Event) -> Iterator[str]:
    """The entries that an event is about, or that it made."""
    named = [event.get("queue_id"), event.get("id"), *event.get("queue_ids", ()), *str(event.get("new_ids", "")).split()]
    for id in named:
        try:
            if isinstance(id, str):
                parse_id(id)
                yield id
        except ValueError:
            pass


def _look_up(
    segments: Sequence[Segment], wanted: Mapping[bytes, float]
) -> Iterator[tuple[tuple[str, str, int], Event, bytes]]:
    """Lines with one of the keys, the newest file first, with the place of each and the key."""
    oldest = min(wanted.values()) - CLOCK_MARGIN_SECONDS
    for segment in segments:
        if segment.is_indexed and segment.changed < oldest:
            continue
        for _ in range(ATTEMPTS):
            try:
                with SegmentReader(segment) as reader:
                    for key in wanted:
                        for offset in reversed(reader.offsets(key)):
                            event = decoded(reader.line(offset))
                            if event is not None and key in keys_of(event):
                                yield (segment.stamp, segment.writer, offset), event, key
                break
            except FileNotFoundError:
                # Sealed or removed since we looked.
                again = [one for one in segments_of(segment.directory) if one.name == segment.name]
                if not again:
                    break
                segment = again[0]
            except ValueError:
                break  # damaged; the others tell what they know
