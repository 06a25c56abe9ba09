"""What the rows of `queue-<slot>.mdb` look like; the tables are described in `layout`.

Records are MessagePack arrays. Recipients and origins are arrays of the model's fields in their order: a field that joins the
model at the end, with a default, is read from older rows as its default.
"""

from __future__ import annotations

from typing import Any, Final, get_type_hints

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from rusmes._core.rows import seal, unseal
from rusmes.errors import StoreCorrupt
from rusmes.model.address import Address
from rusmes.model.content import Rendering
from rusmes.model.mail import Origin, Recipient
from rusmes.model.plan import Queued
from rusmes.storage.api import RecipientState
from rusmes.storage.lmdb.blobs import LmdbBlobs


def _array_of(model: type[Struct]) -> Any:
    """The same fields as an array. The model's own encoding is not touched: others write it as JSON."""
    hints = get_type_hints(model)
    fields = [
        (field.name, hints[field.name]) if field.required else (field.name, hints[field.name], field.default)
        for field in msgspec.structs.fields(model)
    ]
    return msgspec.defstruct(f"{model.__name__}Record", fields, array_like=True)


RecipientRecord: Final[Any] = _array_of(Recipient)
OriginRecord: Final[Any] = _array_of(Origin)


class EntryRecord(Struct, array_like=True):
    """One entry as it was put. `first_status` and `due` are the state of recipients that have no row of their own."""

    action: str
    first_status: str
    sender: tuple[str, str] | None
    recipients: list[RecipientRecord]
    blob_id: bytes
    blob_size: int
    header_bytes: int
    is_file: bool
    prefix: bytes
    skip: int
    origin: OriginRecord
    created: float
    route: str
    mailbox: str
    state: str
    step: int
    due: float
    reason: str
    attributes: dict[str, Any]
    body_type: str
    flags: int
    """1 SMTPUTF8, 2 REQUIRETLS."""
    ret: str
    envid: str
    size: int


class StateRecord(Struct, array_like=True):
    status: str
    attempts: int
    due: float
    last_reply: str
    last_attempt: float
    last_host: str
    delay_noticed: bool


_encoder: Final = msgspec.msgpack.Encoder()
_entry_decoder: Final = msgspec.msgpack.Decoder(EntryRecord)
_state_decoder: Final = msgspec.msgpack.Decoder(StateRecord)
INDEX_BYTES: Final = 4


def state_key(id: bytes, index: int) -> bytes:
    return id + index.to_bytes(INDEX_BYTES, "big")


def pack_entry(item: Queued) -> bytes:
    rendering, content, sender = item.rendering, item.rendering.content, item.sender
    record = EntryRecord(
        item.action,
        "held" if item.action == "hold" else "queued",
        (sender.local, sender.domain) if sender is not None else None,
        [astuple(recipient) for recipient in item.recipients],
        content.id,
        content.size,
        content.header_bytes,
        bool(content.path),
        rendering.prefix,
        rendering.skip,
        astuple(item.origin),
        item.created,
        item.route,
        item.mailbox,
        item.state,
        item.step,
        item.due,
        item.reason,
        item.attributes,
        item.body_type,
        item.smtputf8 | item.requiretls << 1,
        item.ret,
        item.envid,
        item.size,
    )  # fmt: skip
    return seal(item.id, _encoder.encode(record))


def repack_entry(id: bytes, record: EntryRecord) -> bytes:
    return seal(id, _encoder.encode(record))


def unpack_entry(id: bytes, row: bytes) -> EntryRecord:
    value = unseal("entries", id, row)
    try:
        return _entry_decoder.decode(value)
    except msgspec.MsgspecError as error:
        raise StoreCorrupt("the store is damaged", f"entries {id.hex()}: {error}") from None


def queued_of(id: bytes, record: EntryRecord, blobs: LmdbBlobs) -> Queued:
    content = blobs.content_of(record.blob_id, record.blob_size, record.header_bytes, is_file=record.is_file)
    attributes = {name: tuple(value) if isinstance(value, list) else value for name, value in record.attributes.items()}
    return Queued(
        id=id,
        action=record.action,
        sender=Address(*record.sender) if record.sender is not None else None,
        recipients=tuple([Recipient(*astuple(recipient)) for recipient in record.recipients]),
        rendering=Rendering(content, record.prefix, record.skip),
        origin=Origin(*astuple(record.origin)),
        created=record.created,
        route=record.route,
        mailbox=record.mailbox,
        state=record.state,
        step=record.step,
        due=record.due,
        reason=record.reason,
        attributes=attributes,
        body_type=record.body_type,
        smtputf8=bool(record.flags & 1),
        requiretls=bool(record.flags & 2),
        ret=record.ret,
        envid=record.envid,
        size=record.size,
    )


def pack_state(key: bytes, state: RecipientState) -> bytes:
    record = StateRecord(
        state.status, state.attempts, state.due, state.last_reply, state.last_attempt, state.last_host, state.delay_noticed
    )
    return seal(key, _encoder.encode(record))


def unpack_state(key: bytes, row: bytes) -> StateRecord:
    value = unseal("states", key, row)
    try:
        return _state_decoder.decode(value)
    except msgspec.MsgspecError as error:
        raise StoreCorrupt("the store is damaged", f"states {key.hex()}: {error}") from None


def state_of(recipient: Recipient, record: StateRecord) -> RecipientState:
    return RecipientState(
        recipient,
        record.status,
        record.attempts,
        record.due,
        record.last_reply,
        record.last_attempt,
        record.last_host,
        record.delay_noticed,
    )
