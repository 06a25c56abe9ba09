"""Whether a certificate is the one that TLSA records name (RFC 6698, RFC 7671, RFC 7672)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from rusmes.dns import TlsaRecord
from rusmes.net.connection import TlsInfo

TRUST_ANCHOR = 2
"""DANE-TA: an authority, in the chain the server sends, that vouches for its name."""
END_ENTITY = 3
"""DANE-EE: the server's own certificate or key; neither its name nor its dates matter (RFC 7672 §3.1.1)."""

_DIGEST_BYTES = {1: 32, 2: 64}

Verdict = Literal["match", "mismatch", "unusable"]


def is_usable(record: TlsaRecord) -> bool:
    """RFC 7672 §3.1.3: usages 0 and 1 mean nothing for SMTP."""
    return (
        record.usage in (TRUST_ANCHOR, END_ENTITY)
        and record.selector in (0, 1)
        and record.matching in (0, 1, 2)
        and len(record.data) == _DIGEST_BYTES.get(record.matching, len(record.data) or 1)
    )


def verdict(records: Sequence[TlsaRecord], tls: TlsInfo | None, host: str) -> Verdict:
    """What the records say of a connection; "unusable" (N6): they demand TLS, and nothing of the certificate."""
    usable = [record for record in records if is_usable(record)]
    if not usable:
        return "unusable"
    chain = tls.peer_chain if tls is not None else []
    return "match" if chain and matches(usable, chain, host) else "mismatch"


def matches(records: Sequence[TlsaRecord], chain: Sequence[bytes], host: str) -> bool:
    """Whether a chain (DER, the server's certificate first) satisfies one of the usable records."""
    for record in records:
        if record.usage == END_ENTITY:
            if _is_named(record, chain[0]):
                return True
        elif any(_is_named(record, anchor) and _is_signed_under(chain, anchor, host) for anchor in chain[1:]):
            return True
    return False


def _is_named(record: TlsaRecord, certificate: bytes) -> bool:
    data = certificate
    if record.selector == 1:
        try:
            key = x509.load_der_x509_certificate(certificate).public_key()
        except ValueError:
            return False
        data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if record.matching == 1:
        data = hashlib.sha256(data).digest()
    elif record.matching == 2:
        data = hashlib.sha512(data).digest()
    return data == record.data


def _is_signed_under(chain: Sequence[bytes], anchor: bytes, host: str) -> bool:
    try:
        certificates = [x509.load_der_x509_certificate(certificate) for certificate in chain]
        store = Store([x509.load_der_x509_certificate(anchor)])
        verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName(host))
        verifier.verify(certificates[0], certificates[1:])
    except (ValueError, VerificationError, x509.UnsupportedGeneralNameType):
        return False
    return True
