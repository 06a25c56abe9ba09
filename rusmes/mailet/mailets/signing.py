"""Mailets that sign: DKIM for mail of our own (RFC 6376), ARC for mail of others that is passed on (RFC 8617).

What is signed is what will be sent: the header with the pipeline's edits and the body, lines folded as delivery folds them. So
a step that changes the header has to stand before. A body in memory is hashed at once, one in a file by a thread, piece by
piece; once for all signatures, and once for all parts of a mail that was split.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from rusmes._core.dkim import field_names, select_fields
from rusmes._core.headers import find_values
from rusmes._core.mailet import remove_fields
from rusmes.config import names
from rusmes.dkim import arc
from rusmes.dkim.keys import RSA, KeyUnusable, SigningKey
from rusmes.dkim.signature import body_hashes, signed_data, unsigned_field, with_signature
from rusmes.dkim.verification import Verdict, hash_bodies, signatures_of, verify
from rusmes.dns import DnsError, NoSuchDomain
from rusmes.errors import ConfigError
from rusmes.log import get_logger
from rusmes.mailet import api
from rusmes.mailet.api import CONTINUE, Decision, Toolbox
from rusmes.mailet.matchers.envelope import NoParameters
from rusmes.mailet.notary import KeyPlace, Notary, Overloaded
from rusmes.mailet.parameters import Domains
from rusmes.metrics import ARC_SEALS, DKIM_SIGNATURES
from rusmes.mime.addresses import parse_addresses
from rusmes.model.content import Content
from rusmes.model.ids import id_text
from rusmes.model.mail import Mail, Recipient
from rusmes.model.plan import Refusal
from rusmes.smtp.exchange import BodyEncoder

CANNOT: Final = api.Reject(Refusal(451, "4.7.5", "the message cannot be signed now, try again later"))
BUSY: Final = api.Reject(Refusal(451, "4.3.2", "too many signatures are waiting, try again later"))
LOOKUP_SECONDS: Final = 10.0
"""For all keys that a seal needs."""

_log = get_logger("mailet")


class DKIMSignParameters(Struct, frozen=True):
    domains: Domains = Domains()
    """Domains that sign too, whoever the author is: the relay's own, for feedback loops."""
    default_domain: str = ""
    """Who signs when neither the author's domain nor the sender's has a key."""
    strangers: bool = False
    """Sign mail of clients neither logged in nor in [security] relay_networks too; the default keeps forgers from our keys."""


class DKIMSign:
    """Signs the mail for its author's domain, with each of the keys that the domain has (docs/signing.md).

    Without a key it does nothing. Only mail of our own: of clients that are logged in or in relay_networks, and of this server.
    An account signs for its own domain and for that of the sender it may use. Let no step behind it change the header.
    """

    Parameters = DKIMSignParameters

    def __init__(self, parameters: DKIMSignParameters, toolbox: Toolbox) -> None:
        self._strangers = parameters.strangers
        self._domains = tuple(parameters.domains)
        self._default = ""
        self._notary: Notary | None = toolbox.notary
        self._clock = toolbox.clock
        self._inc = toolbox.inc
        if parameters.default_domain:
            try:
                self._default = names.domain_name(parameters.default_domain)
            except ValueError as error:
                raise ConfigError(f"default_domain: {error}") from None
        if self._notary is not None:
            ring = self._notary.settings.ring
            for domain in (*self._domains, self._default):
                if domain and not ring.signer_of(domain):
                    raise ConfigError(f"{domain} has no DKIM key", hint=f"rusmes dkim new {domain}")

    def service(self, mail: Mail) -> Decision | Awaitable[Decision]:
        notary = self._notary
        if notary is None or not notary.settings.ring.places or not (self._strangers or is_own(mail)):
            return CONTINUE
        block = header_of(mail)
        places = self._places(mail, block, notary)
        return self._sign(mail, block, places, notary) if places else CONTINUE

    def _places(self, mail: Mail, block: bytes, notary: Notary) -> tuple[KeyPlace, ...]:
        """Which keys sign: those of the author's domain, of the sender's, or of the default; and those that always do."""
        settings = notary.settings
        sender = mail.sender.domain if mail.sender is not None else ""
        author = author_domain(block)
        if author and mail.origin.account and not settings.any_sender:
            # Whoever is logged in may write any From; the sender was checked at MAIL.
            account = mail.origin.account.rpartition("@")[2]
            if not any(is_below(author, domain) for domain in (sender, account) if domain):
                author = ""
        ring = settings.ring
        places = ring.signer_of(author) or ring.signer_of(sender) or ring.signer_of(self._default)
        for domain in self._domains:
            places += tuple(place for place in ring.signer_of(domain) if place not in places)
        return places

    async def _sign(self, mail: Mail, block: bytes, places: Sequence[KeyPlace], notary: Notary) -> Decision:
        try:
            keys = notary.known_keys(places) or await notary.keys(places)
            if not mail.per_recipient:
                mail.prepended = [*await self._signatures(mail, block, keys, notary), *mail.prepended]
                return CONTINUE
            # Who has lines of its own has a signature of its own, over them.
            recipients_of: dict[tuple[bytes, ...], list[Recipient]] = {}
            for recipient in mail.recipients:
                recipients_of.setdefault(mail.per_recipient.get(recipient.address, ()), []).append(recipient)
            edited = dict(mail.per_recipient)
            for lines in recipients_of:
                made = tuple(await self._signatures(mail, b"".join((*lines, block)), keys, notary))
                for recipient in recipients_of[lines]:
                    edited[recipient.address] = (*made, *lines)
            mail.per_recipient = edited
        except KeyUnusable as error:
            self._inc(DKIM_SIGNATURES["failed"])
            _log.error("message cannot be signed", mail=id_text(mail.id), reason=str(error))
            return CANNOT
        except Overloaded:
            self._inc(DKIM_SIGNATURES["failed"])
            return BUSY
        return CONTINUE

    async def _signatures(self, mail: Mail, block: bytes, keys: Sequence[SigningKey], notary: Notary) -> list[bytes]:
        """Raises Overloaded."""
        settings = notary.settings
        form = settings.form
        header = as_sent(block, mail, settings.long_lines)
        body_hash = await _hashes(mail, notary, form.body_relaxed)
        choice = settings.choice.of(field_names(header))
        fields = select_fields(header, choice.names, relaxed=form.header_relaxed)
        now = self._clock.now()
        unsigned = [
            unsigned_field(key, form, body_hash, choice, now=now, expire_seconds=settings.expire_seconds) for key in keys
        ]
        data = [signed_data(fields, field, relaxed=form.header_relaxed) for field in unsigned]
        values = await notary.sign(list(zip(keys, data, strict=True)))
        for key in keys:
            self._inc(DKIM_SIGNATURES["rsa" if key.algorithm == RSA else "ed25519"])
        return [with_signature(field, value) for field, value in zip(unsigned, values, strict=True)]


class ARCSeal:
    """Seals mail of others that is passed on, so that the next server can see what this one saw (RFC 8617; docs/signing.md).

    The seal says what of DKIM and of earlier seals is good, or repeats Authentication-Results that a step before has added.
    Mail of our own is left alone, as is a chain that is over, and one whose keys cannot be looked up now.
    """

    Parameters = NoParameters

    def __init__(self, parameters: NoParameters, toolbox: Toolbox) -> None:
        self._notary: Notary | None = toolbox.notary
        self._find_txt = toolbox.find_txt
        self._clock = toolbox.clock
        self._hostname = toolbox.hostname
        self._inc = toolbox.inc

    def service(self, mail: Mail) -> Decision | Awaitable[Decision]:
        notary = self._notary
        if notary is None or is_own(mail):
            return CONTINUE
        places = notary.settings.ring.signer_of(notary.settings.seal_domain)
        return self._seal(mail, places, notary) if places else CONTINUE

    async def _seal(self, mail: Mail, places: Sequence[KeyPlace], notary: Notary) -> Decision:
        header = as_sent(header_of(mail), mail, notary.settings.long_lines)
        chain = arc.read_chain(header)
        if chain.is_over:
            self._inc(ARC_SEALS["skipped"])
            return CONTINUE
        try:
            keys = await notary.keys(places)
            # Many who verify know RSA only.
            key = next((key for key in keys if key.algorithm == RSA), keys[0])
            validation, results = await self._examine(mail, chain, notary)
            if validation == "temperror":
                self._inc(ARC_SEALS["skipped"])
                return CONTINUE
            digest = await _hashes(mail, notary, True)
            now = self._clock.now()
            choice = notary.settings.choice

            def work() -> bytes:
                return arc.seal(key, chain, validation, results, header, digest, choice, key.sign, now=now)

            lines = split_lines(await notary.submit(work))
        except KeyUnusable as error:
            _log.error("message cannot be sealed", mail=id_text(mail.id), reason=str(error))
            self._inc(ARC_SEALS["skipped"])
            return CONTINUE
        except Overloaded:
            return BUSY
        mail.prepended = [*lines, *mail.prepended]
        self._inc(ARC_SEALS[validation])
        return CONTINUE

    async def _examine(self, mail: Mail, sent: arc.Chain, notary: Notary) -> tuple[str, str]:
        """The state of the chain, and the results that are sealed: of the message as it came, whatever steps have done to it.

        A chain of which a step has taken out a part is broken.
        """
        own = self._own_results(mail)
        content = mail.content
        header = content.header_block()
        chain = arc.read_chain(header)
        found = signatures_of(header) if own is None else None
        signatures = found.signatures if found is not None else ()
        wanted = dict.fromkeys([*chain.record_names, *(signature.record_name for signature in signatures)])
        records = await self._records(list(wanted))
        keys = {signature.body_key for signature in signatures} | ({chain.body_key} if chain.sets else set())
        bodies = await notary.submit(lambda: hash_bodies(content.chunks(content.header_bytes), keys)) if keys else {}
        now = self._clock.now()

        def check() -> tuple[str, list[Verdict]]:
            verdicts = [verify(one, records[one.record_name], header, bodies[one.body_key], now=now) for one in signatures]
            body = bodies[chain.body_key] if chain.sets else None
            return chain.verify(records, header, body, now=now)[0], verdicts

        validation, verdicts = await notary.submit(check)
        if sent != chain:
            validation = "fail" if sent.highest else "none"
        if own is None:
            malformed = found.malformed if found is not None else ()
            own = results_text(self._hostname, validation, mail.origin.client_address, [*malformed, *verdicts])
        return validation, own

    def _own_results(self, mail: Mail) -> str | None:
        """The value of the Authentication-Results that a step before has put on top under our name."""
        for value in find_values(b"".join(mail.prepended), b"authentication-results"):
            text = value.decode("utf-8", "replace")
            if text.partition(";")[0].strip().lower() == self._hostname.lower():
                return text
        return None

    async def _records(self, wanted: Sequence[str]) -> dict[str, Sequence[bytes] | None]:
        if self._find_txt is None:
            return dict.fromkeys(wanted)
        asking = [asyncio.ensure_future(_ask(self._find_txt, name)) for name in wanted]
        if asking:
            _, late = await asyncio.wait(asking, timeout=LOOKUP_SECONDS)
            for one in late:
                one.cancel()
        return {
            name: None if one.cancelled() or not one.done() else one.result() for name, one in zip(wanted, asking, strict=True)
        }


async def _ask(find_txt: Callable[[str], Awaitable[Sequence[bytes]]], name: str) -> Sequence[bytes] | None:
    try:
        return await find_txt(name)
    except NoSuchDomain:
        return []
    except DnsError:
        return None


def results_text(hostname: str, validation: str, client: str, verdicts: Sequence[Verdict]) -> str:
    """Results as Authentication-Results has them (RFC 8601 §2.2; smtp.remote-ip: RFC 8617 §10.2). Only what was checked."""
    parts = [hostname, f"arc={validation}" + (f" smtp.remote-ip={client}" if client else "")]
    for verdict in verdicts:
        text = f"dkim={verdict.result}"
        if verdict.reason:
            text += f' reason="{verdict.reason}"'
        if verdict.domain:
            text += f" header.d={verdict.domain} header.s={verdict.selector} header.a={verdict.algorithm}"
        parts.append(text)
    if not verdicts:
        parts.append("dkim=none")
    return "; ".join(part.replace("\\", "").replace("\r", "").replace("\n", "") for part in parts)


def split_lines(fields: bytes) -> list[bytes]:
    """Whole fields, folded as they are."""
    out: list[bytes] = []
    for line in fields.splitlines(keepends=True):
        if line[:1] in b" \t" and out:
            out[-1] += line
        else:
            out.append(line)
    return out


# What a mail will look like


def is_own(mail: Mail) -> bool:
    """Of a client that may relay, or made here."""
    return mail.origin.trusted or not mail.origin.listener


def header_of(mail: Mail) -> bytes:
    """The header block with the edits that all recipients see, and its empty line."""
    block = mail.content.header_block()
    if mail.removed:
        block = remove_fields(block, [name.encode() for name in mail.removed])
    return b"".join((*mail.prepended, block))


def as_sent(block: bytes, mail: Mail, long_lines: str) -> bytes:
    """A header block as delivery will write it."""
    if mail.body_type == "BINARYMIME":
        return block
    return BodyEncoder(dots=False, long_lines=_folding(long_lines)).whole(block)


def body_of(mail: Mail, long_lines: str) -> Iterator[bytes]:
    """The body as delivery will write it."""
    content: Content = mail.content
    chunks = content.chunks(content.header_bytes)
    if mail.body_type == "BINARYMIME":
        yield from chunks
        return
    encoder = BodyEncoder(dots=False, long_lines=_folding(long_lines))
    if content.data is not None:
        yield encoder.whole(content.data[content.header_bytes :])
        return
    for chunk in chunks:
        yield encoder.chunk(chunk)
    yield encoder.finish()


def _folding(long_lines: str) -> str:
    """What delivery refuses it does not send: nothing is to be folded."""
    return "keep" if long_lines == "fail" else long_lines


async def _hashes(mail: Mail, notary: Notary, relaxed: bool) -> bytes:
    """The hash of the body in one form. Raises Overloaded."""
    content, long_lines = mail.content, notary.settings.long_lines
    key = (content.id, relaxed, mail.body_type == "BINARYMIME", long_lines)
    known = notary.known_hash(key)
    if known is not None:
        return known

    def work() -> bytes:
        return body_hashes(body_of(mail, long_lines), [relaxed])[relaxed]

    digest = work() if content.data is not None else await notary.submit(work)
    notary.remember_hash(key, digest)
    return digest


def author_domain(block: bytes) -> str:
    """The domain of the one From field's first author, as an A-label; "" when there is none that is sure."""
    values = find_values(block, b"from")
    if len(values) != 1:
        return ""  # RFC 5322 §3.6: which of two a reader shows is not known
    value = values[0]
    start = value.rfind(b"@") + 1
    if b"," in value or b"(" in value or b'"' in value[start:] or not start:
        found = next((one for one in parse_addresses(value) if one.mailbox is not None and one.host), None)
        domain = found.host if found is not None and found.host is not None else b""
    else:
        domain = value[start:].rstrip(b"> \t")
    text = domain.decode("utf-8", "replace").lower()
    if text.isascii() and "xn--" not in text:
        return text if all(c.isalnum() or c in "-._" for c in text) else ""
    try:
        return names.domain_name(text)
    except ValueError:
        return ""


def is_below(domain: str, above: str) -> bool:
    """Whether a domain is another one, or below it."""
    return domain == above or domain.endswith(f".{above}")
