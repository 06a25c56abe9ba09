"""What a request for injection looks like; what does not fit is refused before anything is done."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from rusmes.errors import NotAllowed

MAX_ITEMS = 1000
MAX_RECIPIENTS = 1000
"""Of one item, each of which may become a message of its own."""

Values = dict[str, str | int | float | bool]
"""What placeholders stand for."""


class Attachment(Struct, frozen=True, forbid_unknown_fields=True):
    data: bytes
    """base64."""
    filename: str = ""
    content_type: str = "application/octet-stream"
    cid: str = ""
    """With one the attachment belongs to the HTML text, which names it as cid:..."""


class Structured(Struct, frozen=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """A message by its parts; addresses as in a header: "Name <user@example.com>"."""

    from_: str
    subject: str = ""
    to: tuple[str, ...] = ()
    """[] = the recipient it is sent to."""
    cc: tuple[str, ...] = ()
    reply_to: tuple[str, ...] = ()
    text: str = ""
    html: str = ""
    headers: dict[str, str] = {}
    attachments: tuple[Attachment, ...] = ()


class Target(Struct, frozen=True, forbid_unknown_fields=True):
    """One recipient. With substitutions of its own it gets a message of its own."""

    address: str
    name: str = ""
    substitutions: Values = {}
    notify: tuple[str, ...] = ()
    """NEVER, or any of SUCCESS, FAILURE, DELAY (RFC 3461 §4.1)."""


class Item(Struct, frozen=True, forbid_unknown_fields=True):
    """One message, to all of its recipients."""

    recipients: Annotated[tuple[str | Target, ...], Meta(min_length=1, max_length=MAX_RECIPIENTS)]
    sender: str = ""
    """The envelope's; "" = that of `from` or of the From field. "<>" = the null sender."""
    raw: str = ""
    """A whole message, lines ended as one likes."""
    raw_base64: bytes = b""
    message: Structured | None = None
    substitutions: Values = {}
    """For {{name}} in the text, the subject and the fields; those of a recipient come first."""
    key: Annotated[str, Meta(max_length=200)] = ""
    """Idempotency: a second item with the same key within a day does nothing and has the same answer."""
    tenant: Annotated[str, Meta(max_length=100)] = ""
    campaign: Annotated[str, Meta(max_length=100)] = ""
    envid: Annotated[str, Meta(max_length=100)] = ""
    ret: Literal["", "FULL", "HDRS"] = ""
    """What a failure notice returns of it (RFC 3461 §4.3)."""


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    messages: Annotated[tuple[Item, ...], Meta(min_length=1, max_length=MAX_ITEMS)]


class Refused(Struct, frozen=True):
    """A recipient that was not taken."""

    address: str
    code: int
    status: str
    text: str


class Result(Struct, frozen=True, omit_defaults=True):
    """What became of an item.

    `status`: accepted (every recipient) | partly (some of them) | refused (all of them) | invalid (it will never be taken).
    """

    status: str
    ids: tuple[str, ...] = ()
    """Of the queue; what was put into mailboxes at once has that of the mail."""
    refused: tuple[Refused, ...] = ()
    error: str = ""
    duplicate: bool = False
    retry: bool = False
    """Whether the same may succeed later."""


def read_request(document: object) -> Request:
    """Raises NotAllowed: it is none; the text says where."""
    try:
        return msgspec.convert(document, Request)
    except msgspec.ValidationError as error:
        raise NotAllowed(str(error)) from None
