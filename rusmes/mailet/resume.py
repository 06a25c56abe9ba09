"""What a mail carries while it waits to go on in the pipeline, as attributes of its queue row.

Attributes whose names begin with "rusmes." are the pipeline's own. A row holds the content as it came; header edits, hops
and the error text are packed into one attribute, and come back out when the pipeline runs the mail again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Struct

from rusmes._core.mailet import Step
from rusmes.model.address import Address
from rusmes.model.mail import Mail, Value

RESUME: Final = "rusmes.resume"
SENT_BY: Final = "rusmes.sent_by"
"""The mailet (or "notice") that made a mail."""
FAILED: Final = "rusmes.failed"
"""(state, step) where the mail went to the error processor: where a release goes on."""
DEFERRALS: Final = "rusmes.deferrals"
"""How often the step has deferred the mail."""


class Packed(Struct, array_like=True):
    """A new field goes to the end and has a default: rows outlive versions."""

    label: str
    prepended: list[bytes]
    removed: list[str]
    per_recipient: list[tuple[Address, tuple[bytes, ...]]]
    error: str
    hops: int


def pack(mail: Mail, label: str) -> dict[str, Value]:
    """The attributes of a row that goes on at the step called `label`."""
    if mail.prepended or mail.removed or mail.per_recipient or mail.error or mail.hops:
        edits = (mail.prepended, sorted(mail.removed), list(mail.per_recipient.items()), mail.error, mail.hops)
        packed = msgspec.msgpack.encode(Packed(label, *edits))
    else:
        packed = _unedited(label)
    return {**mail.attributes, RESUME: packed}


@lru_cache(maxsize=1024)
def _unedited(label: str) -> bytes:
    """Of nearly all mail that waits; steps are few."""
    return msgspec.msgpack.encode(Packed(label, [], [], [], "", 0))


def unpack(mail: Mail, chains: dict[str, list[Step]]) -> None:
    """Give a mail made from a row its edits back, and find its step when the configuration has changed since.

    A step that is not where it was, and not found once elsewhere in its processor, is an error of the mail.
    """
    raw = mail.attributes.pop(RESUME)
    packed = msgspec.msgpack.decode(raw if isinstance(raw, bytes) else b"", type=Packed)
    mail.prepended = packed.prepended
    mail.removed = frozenset(packed.removed)
    mail.per_recipient = dict(packed.per_recipient)
    mail.error = packed.error
    mail.hops = packed.hops
    steps = chains.get(mail.state, [])
    if not packed.label or not steps or (mail.step < len(steps) and steps[mail.step].label == packed.label):
        return
    places = [step.index for step in steps if step.label == packed.label]
    if len(places) == 1:
        mail.step = places[0]
        return
    mail.error = f"the step {packed.label!r} of processor {mail.state!r} is no longer there"
    mail.attributes[FAILED] = (mail.state, "0")
    mail.state, mail.step = "error", 0
