"""The authenticated received chain: what servers on the way have seen, each sealed over those before (RFC 8617).

A set are three fields with the same instance i=: ARC-Authentication-Results (what was seen), ARC-Message-Signature (the message
as it was then), ARC-Seal (over all sets so far). `read_chain` finds them and checks the form, `Chain.verify` the signatures,
`seal` adds a set. Seals are always in the relaxed form, and have neither h= nor bh= (§4.1.3).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from rusmes._core.dkim import field_names, relaxed_field, select_fields
from rusmes._core.headers import offsets
from rusmes.dkim.keys import ED25519, RSA, SigningKey, record_name
from rusmes.dkim.signature import FieldChoice, Form, folded_names, signed_data, with_signature
from rusmes.dkim.tags import Malformed, octets, parse_tags, without_blanks
from rusmes.dkim.verification import (
    BodyHash,
    Signature,
    check_value,
    instance_of,
    name_of,
    read_signature,
    verify,
    without_value,
)

MAX_SETS: Final = 50
"""RFC 8617 §4.2.1."""
RESULTS: Final = b"arc-authentication-results"
MESSAGE: Final = b"arc-message-signature"
SEAL: Final = b"arc-seal"

Records = Mapping[str, Sequence[bytes] | None]
"""TXT records by name; None: nobody can say now."""


class Seal(Struct, frozen=True):
    """An ARC-Seal."""

    field: bytes
    instance: int
    domain: str
    selector: str
    algorithm: str
    value: bytes
    validation: str
    """cv=: none | pass | fail."""

    @property
    def record_name(self) -> str:
        return record_name(self.selector, self.domain)


class ArcSet(Struct, frozen=True):
    """The three fields of an instance."""

    results: bytes
    message: Signature
    seal: Seal


class Chain(Struct, frozen=True):
    """The sets of a message in the order of their instances. `fault` says why it is no chain (then there are no sets)."""

    sets: tuple[ArcSet, ...] = ()
    fault: str = ""
    highest: int = 0
    """The highest instance that any field claims."""

    @property
    def is_over(self) -> bool:
        """Somebody has found it broken and said so, or it is full: nothing may be added (§5.1 step 2, §4.2.1)."""
        return self.highest >= MAX_SETS or bool(self.sets and self.sets[-1].seal.validation == "fail")

    @property
    def record_names(self) -> list[str]:
        """The DNS records that `verify` needs."""
        if not self.sets:
            return []
        names = [one.seal.record_name for one in self.sets]
        return list(dict.fromkeys([self.sets[-1].message.record_name, *names]))

    @property
    def body_key(self) -> tuple[bool, int | None]:
        """The hash of the body that `verify` needs; only with sets."""
        return self.sets[-1].message.body_key

    def verify(self, records: Records, header: bytes, body: BodyHash | None, *, now: float) -> tuple[str, str]:
        """The chain validation status (§5.2), none | pass | fail, and why; temperror when a key cannot be looked up now."""
        if self.fault:
            return "fail", self.fault
        if not self.sets:
            return "none", ""
        last = self.sets[-1]
        if last.seal.validation == "fail":
            return "fail", f"set {last.seal.instance} says so"
        assert body is not None
        verdict = verify(last.message, records.get(last.message.record_name), header, body, now=now)
        if verdict.result not in ("pass", "neutral"):
            return _failure(verdict.result), f"message signature {last.seal.instance}: {verdict.reason}"
        for index in range(len(self.sets) - 1, -1, -1):
            seal = self.sets[index].seal
            data = _sealed_data(self.sets[: index + 1], without_value(seal.field))
            result, reason = check_value(seal.algorithm, seal.value, records.get(seal.record_name), data)
            if result not in ("pass", "neutral"):
                return _failure(result), f"seal {seal.instance}: {reason}"
        return "pass", ""


def _failure(result: str) -> str:
    return "temperror" if result == "temperror" else "fail"


def _sealed_data(sets: Sequence[ArcSet], own_field: bytes) -> bytes:
    """RFC 8617 §5.1.1: set by set results, message signature, seal; the last seal is the one that is made or checked."""
    fields = [relaxed_field(field) for one in sets[:-1] for field in (one.results, one.message.field, one.seal.field)]
    fields += [relaxed_field(sets[-1].results), relaxed_field(sets[-1].message.field)]
    return signed_data(b"".join(fields), own_field, relaxed=True)


def read_chain(header: bytes) -> Chain:
    """The sets of a header (§5.2 steps 1 to 3)."""
    found: dict[bytes, dict[int, bytes]] = {RESULTS: {}, MESSAGE: {}, SEAL: {}}
    fault, highest = "", 0
    for start, colon, end in offsets(header):
        kind = header[start:colon].strip().lower()
        if kind not in found:
            continue
        field = header[start:end]
        try:
            instance = _instance_of_results(field) if kind == RESULTS else instance_of(parse_tags(field.partition(b":")[2]))
        except Malformed as error:
            fault = fault or f"{kind.decode()}: {error.public}"
            continue
        highest = max(highest, instance)
        if instance in found[kind]:
            fault = fault or f"there are two {kind.decode()} of instance {instance}"
        found[kind][instance] = field
    if fault:
        return Chain((), fault, highest)
    if not highest:
        return Chain()
    try:
        return Chain(_sets(found, highest), "", highest)
    except Malformed as error:
        return Chain((), error.public, highest)


def _sets(found: dict[bytes, dict[int, bytes]], count: int) -> tuple[ArcSet, ...]:
    """Raises Malformed."""
    sets = []
    for instance in range(1, count + 1):
        if any(instance not in fields for fields in found.values()):
            raise Malformed(f"set {instance} is not complete")
        seal = _read_seal(found[SEAL][instance])
        expected = ("none",) if instance == 1 else ("pass",)
        if seal.validation not in expected and not (instance == count and seal.validation == "fail"):
            raise Malformed(f"seal {instance} says cv={seal.validation}")  # §5.2 step 3
        sets.append(ArcSet(found[RESULTS][instance], read_signature(found[MESSAGE][instance], arc=True), seal))
    return tuple(sets)


def _instance_of_results(field: bytes) -> int:
    """The i= that comes first (§4.1.1). Raises Malformed."""
    first = field.partition(b":")[2].partition(b";")[0]
    return instance_of(parse_tags(first))


def _read_seal(field: bytes) -> Seal:
    """Raises Malformed."""
    tags = parse_tags(field.partition(b":")[2])
    if "h" in tags or "bh" in tags:
        raise Malformed("a seal has h=")  # §4.1.3
    algorithm = without_blanks(tags.get("a", ""))
    if algorithm not in (RSA, ED25519):
        raise Malformed(f"the algorithm {algorithm[:20]!r} is not taken")
    validation = without_blanks(tags.get("cv", "")).lower()
    if validation not in ("none", "pass", "fail"):
        raise Malformed("a seal without cv=")
    return Seal(
        field, instance_of(tags), name_of(tags, "d"), name_of(tags, "s"), algorithm, octets(tags, "b"), validation
    )  # fmt: skip


def chosen_fields(header: bytes, choice: FieldChoice) -> tuple[bytes, bytes]:
    """Which fields a message signature covers, as h= is written and in their canonical form.

    Those of `choice` and all DKIM-Signatures (§5.1: they should be), each as often as it is there: who comes after us may add
    what it likes. No Authentication-Results and nothing of ARC (§4.1.2).
    """
    names = field_names(header)
    wanted = [name for name in (*choice.wanted, b"dkim-signature") for _ in range(min(names.count(name), 100))] or [b"from"]
    return folded_names(wanted), select_fields(header, wanted, relaxed=True)


def seal(
    key: SigningKey,
    chain: Chain,
    validation: str,
    results: str,
    header: bytes,
    body_hash: bytes,
    choice: FieldChoice,
    sign: Callable[[bytes], bytes],
    *,
    now: float,
) -> bytes:
    """A new set for a message, its fields in the order in which they go on top.

    Args:
        validation: the status of `chain`: none | pass | fail.
        results: the value of Authentication-Results, with our name first, without line ends.
        body_hash: of the relaxed form.
    """
    instance = chain.highest + 1
    results_field = b"ARC-Authentication-Results: i=%d; %s\r\n" % (instance, _folded_results(results))
    names, fields = chosen_fields(header, choice)
    head = (
        f"ARC-Message-Signature: i={instance}; a={key.algorithm}; c={Form()}; d={key.domain};\r\n\ts={key.selector};"
        f" t={int(now)};\r\n\th="
    )
    unsigned = b"".join((head.encode(), names, b";\r\n\tbh=", base64.b64encode(body_hash), b";\r\n\tb="))
    message_field = with_signature(unsigned, sign(signed_data(fields, unsigned, relaxed=True)))
    unsigned = (
        f"ARC-Seal: i={instance}; a={key.algorithm}; t={int(now)}; cv={validation};\r\n\td={key.domain}; s={key.selector};"
        "\r\n\tb="
    ).encode()
    own = ArcSet(results_field, read_signature(message_field, arc=True), _unsealed(key, instance))
    # §5.1.2: of a broken chain only the set that says so is sealed.
    sets = (own,) if validation == "fail" else (*chain.sets, own)
    seal_field = with_signature(unsigned, sign(_sealed_data(sets, unsigned)))
    return seal_field + message_field + results_field


def _unsealed(key: SigningKey, instance: int) -> Seal:
    return Seal(b"", instance, key.domain, key.selector, key.algorithm, b"", "")


def _folded_results(text: str) -> bytes:
    """A line for each result."""
    return b";\r\n\t".join(part.strip().encode() for part in text.split(";") if part.strip())
