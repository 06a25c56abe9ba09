"""DKIMSign and ARCSeal, judged by dkimpy, which shares no code with us."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from msgspec.structs import replace

from rusmes.clock import FakeClock
from rusmes.config.schema import Config, Delivery, Storage, Submission
from rusmes.config.signing import Dkim, DkimKey
from rusmes.dkim.arc import read_chain
from rusmes.dkim.keys import new_key, pem_of, public_record
from rusmes.dns import DnsUnavailable, NoSuchDomain
from rusmes.errors import ConfigError
from rusmes.mailet import notary as notary_module
from rusmes.mailet.mailets.signing import author_domain
from rusmes.mailet.notary import Notary, check_keys
from rusmes.metrics import ARC_SEALS, DKIM_SIGNATURES
from rusmes.model.content import Content
from rusmes.model.mail import Mail, Origin
from rusmes.model.plan import Plan
from rusmes.smtp.exchange import BodyEncoder
from tests.unit.mailet.conftest import Kit

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)
ED25519_KEY = new_key("ed25519")
BODY = (
    b"Received: by here; now\r\nFrom: Sam <sam@news.here.org>\r\nTo: bob@elsewhere.org\r\nSubject: one\r\n two\r\n"
    b"Date: Tue, 24 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@here.org>\r\n\r\nhello \t world\r\n\r\n\r\n"
)
SIGN = [("RelayAllowed", "DKIMSign"), ("RelayAllowed", "RemoteDelivery")]


class Zone(dict[str, bytes]):
    """TXT records."""

    def __call__(self, name: bytes | str, timeout: float = 5) -> bytes | None:
        """For dkimpy."""
        text = name.decode() if isinstance(name, bytes) else name
        return self.get(text.rstrip("."))

    async def txt(self, name: str) -> Sequence[bytes]:
        await asyncio.sleep(0)
        if name.startswith("slow"):
            raise DnsUnavailable("no answer")
        if name not in self:
            raise NoSuchDomain(name)
        return [self[name]]


class Office:
    """A pipeline with keys."""

    def __init__(self, kit: Kit, path: Path) -> None:
        self.kit = kit
        self.path = path
        self.zone = Zone()
        self.counts: list[int] = []
        kit.clock = FakeClock(float(int(time.time()) - 60))  # dkimpy asks the real one
        kit.toolbox.clock = kit.clock
        kit.toolbox.find_txt = self.zone.txt
        kit.toolbox.inc = self.counts.append
        self.config = Config(domain="here.org", storage=Storage(path=str(path)))
        self.notary: Notary | None = None

    def key(self, domain: str, selector: str, key: Any, directory: str = "dkim") -> Path:
        folder = self.path / directory
        folder.mkdir(exist_ok=True, mode=0o700)
        file = folder / f"{domain}.{selector}.pem"
        file.write_bytes(pem_of(key))
        file.chmod(0o600)
        self.zone[f"{selector}._domainkey.{domain}"] = public_record(key).encode()
        return file

    def configure(self, dkim: Dkim | None = None, **more: Any) -> None:
        self.config = replace(self.config, dkim=dkim or self.config.dkim, **more)
        self.notary = self.kit.toolbox.notary = Notary(self.config)

    def run(self, mail: Mail, steps: Any = SIGN) -> Plan:
        if self.notary is None:
            self.configure()
        pipeline = self.kit.build(steps)
        return asyncio.run(pipeline.run(mail, deadline=self.kit.clock.monotonic() + 30))

    def sent(self, mail: Mail, steps: Any = SIGN) -> list[bytes]:
        """What goes to other servers, one for each rendering."""
        return [b"".join(queued.rendering.chunks()) for queued in self.run(mail, steps).queued]


@pytest.fixture
def office(kit: Kit, tmp_path: Path) -> Any:
    made = Office(kit, tmp_path)
    yield made
    if made.notary is not None:
        made.notary.close()


def signatures(message: bytes) -> int:
    return message.partition(b"\r\n\r\n")[0].count(b"DKIM-Signature: ")


def assert_verifies(message: bytes, zone: Zone, count: int) -> None:
    assert signatures(message) == count
    for index in range(count):
        assert dkim.DKIM(message).verify(index, dnsfunc=zone), message
    for line in message.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        assert len(line) < 200


@pytest.mark.parametrize("form", ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"])
def test_two_keys_two_signatures(office: Office, form: Any) -> None:
    office.key("here.org", "202611rsa", RSA_KEY)
    office.key("here.org", "202611ed25519", ED25519_KEY)
    office.configure(Dkim(canonicalization=form))
    (message,) = office.sent(office.kit.mail("bob@elsewhere.org", trusted=True, body=BODY))
    assert message.endswith(BODY)
    assert_verifies(message, office.zone, 2)
    assert b"a=rsa-sha256" in message
    assert b"a=ed25519-sha256" in message
    assert b"d=here.org" in message  # the author is in a domain below
    assert office.counts == [DKIM_SIGNATURES["rsa"], DKIM_SIGNATURES["ed25519"]]


def test_random_messages_verify(office: Office) -> None:
    office.key("here.org", "s", RSA_KEY)
    chance = random.Random(7)
    pieces = [b"\r\n", b"\r\n\r\n", b" ", b"\t", b"a", b"word ", b".\r\n", b"\xc3\xa4", b"x" * 300, b"y" * 997 + b"\r\n"]
    steps = [
        ("All", "AddHeader", {"name": "X-Tag", "value": "a"}), ("All", "RemoveHeader", {"names": "X-Gone"}), *SIGN,
    ]  # fmt: skip
    for _ in range(25):
        fields = [
            b"From: a@here.org\r\n", b"X-Gone: 1\r\n", b"Subject:  a \t b\r\n\t c  \r\n", b"To: x@y.org\r\n", b"Cc:z@y.org\r\n",
        ]  # fmt: skip
        chance.shuffle(fields)
        body = b"".join(chance.choice(pieces) for _ in range(chance.randint(0, 30)))
        mail = office.kit.mail("bob@elsewhere.org", trusted=True, body=b"".join(fields) + b"\r\n" + body)
        (message,) = office.sent(mail, steps)
        assert_verifies(BodyEncoder(dots=False).whole(message), office.zone, 1)
        assert b"X-Gone" not in message


def test_what_is_signed_is_what_is_sent(office: Office) -> None:
    """Lines that delivery folds are folded before they are hashed."""
    office.key("here.org", "s", RSA_KEY)
    body = b"From: a@here.org\r\nSubject: " + b"s" * 1500 + b"\r\n\r\n" + b"w" * 3000 + b"\r\nend"
    for treatment in ("fold", "keep"):
        office.configure(delivery=Delivery(long_lines=treatment))
        (message,) = office.sent(office.kit.mail("bob@elsewhere.org", trusted=True, body=body))
        wire = BodyEncoder(dots=False, long_lines=treatment).whole(message)
        assert dkim.DKIM(wire).verify(dnsfunc=office.zone)


def test_a_large_body_in_a_file(office: Office, tmp_path: Path) -> None:
    office.key("here.org", "s", RSA_KEY)
    head = BODY.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    data = head + b"".join(b"line %d \t \r\n" % number for number in range(60_000)) + b"\r\n" * 5
    path = tmp_path / "body"
    path.write_bytes(data)
    mail = office.kit.mail("bob@elsewhere.org", trusted=True)
    mail.content = Content(b"f" * 16, len(data), len(head), path=str(path))
    (message,) = office.sent(mail)
    assert_verifies(message, office.zone, 1)


@pytest.mark.parametrize(
    ("origin", "sender", "author", "signer"),
    [
        (Origin(listener="mx", trusted=True), "x@elsewhere.org", "a@here.org", "here.org"),
        (Origin(listener="mx", trusted=True), "x@here.org", "a@elsewhere.org", "here.org"),
        (Origin(listener="mx", trusted=True), "x@else.org", "a@elsewhere.org", ""),
        (Origin(listener="mx"), "x@here.org", "a@here.org", ""),  # a stranger
        (Origin(), None, "a@here.org", "here.org"),  # made here
        (Origin(listener="submission", trusted=True, account="a@here.org"), "a@here.org", "a@here.org", "here.org"),
        (Origin(listener="submission", trusted=True, account="a@here.org"), "a@here.org", "a@news.here.org", "here.org"),
        (Origin(listener="submission", trusted=True, account="m@there.org"), "m@there.org", "a@here.org", "there.org"),
        (Origin(listener="submission", trusted=True, account="m@none.org"), "m@none.org", "a@here.org", ""),
        (Origin(listener="submission", trusted=True, account="m@none.org"), "a@here.org", "a@here.org", "here.org"),
    ],
)
def test_who_signs(office: Office, origin: Origin, sender: str | None, author: str, signer: str) -> None:
    office.key("here.org", "s", ED25519_KEY)
    office.key("there.org", "s", new_key("ed25519"))
    mail = office.kit.mail("bob@elsewhere.org", sender=sender, body=b"From: %s\r\n\r\nx\r\n" % author.encode())
    mail.origin = origin
    steps = [("All", "DKIMSign"), ("All", "RemoteDelivery")]
    (message,) = office.sent(mail, steps)
    assert signatures(message) == bool(signer)
    assert f"d={signer};".encode() in message or not signer


def test_an_account_may_use_every_domain_where_the_configuration_says_so(office: Office) -> None:
    office.key("here.org", "s", ED25519_KEY)
    office.configure(submission=Submission(sender_check="any"))
    mail = office.kit.mail("bob@elsewhere.org", sender="m@esp.org", body=b"From: a@here.org\r\n\r\nx\r\n")
    mail.origin = Origin(listener="submission", trusted=True, account="m@esp.org")
    assert signatures(office.sent(mail)[0]) == 1


def test_domains_that_always_sign_and_the_default(office: Office) -> None:
    for domain in ("here.org", "esp.org", "default.org"):
        office.key(domain, "s", new_key("ed25519"))
    office.configure()
    steps = [("All", "DKIMSign", {"domains": "esp.org", "default_domain": "default.org"}), ("All", "RemoteDelivery")]
    for author, signers in (
        ("here.org", {"here.org", "esp.org"}), ("else.org", {"default.org", "esp.org"}), ("esp.org", {"esp.org"}),
    ):  # fmt: skip
        mail = office.kit.mail("bob@elsewhere.org", sender=None, trusted=True, body=f"From: a@{author}\r\n\r\n".encode())
        (message,) = office.sent(mail, steps)
        assert {one for one in ("here.org", "esp.org", "default.org") if f" d={one};".encode() in message} == signers
    with pytest.raises(ConfigError, match=r"nobody\.org has no DKIM key"):
        office.kit.build([("All", "DKIMSign", {"default_domain": "nobody.org"}), ("All", "RemoteDelivery")])


def test_who_has_lines_of_its_own_has_a_signature_of_its_own(office: Office) -> None:
    """RFC 8058 §4: List-Unsubscribe must be signed."""
    office.key("here.org", "s", RSA_KEY)
    steps = [
        ("RecipientIs=bob@elsewhere.org,eve@elsewhere.org", "AddHeader",
         {"name": "List-Unsubscribe", "value": "<https://here.org/{recipient}>", "per_recipient": True}),
        *SIGN,
    ]  # fmt: skip
    mail = office.kit.mail("bob@elsewhere.org", "eve@elsewhere.org", "ann@elsewhere.org", trusted=True, body=BODY)
    messages = office.sent(mail, steps)
    assert len(messages) == 3
    for message in messages:
        assert_verifies(message, office.zone, 1)
    for name in (b"bob", b"eve"):
        (message,) = [one for one in messages if b"/%s@" % name in one]
        assert b"list-unsubscribe" in message.partition(b"List-Unsubscribe: ")[0]
        assert not dkim.DKIM(message.replace(b"https", b"http")).verify(dnsfunc=office.zone)


def test_no_keys_no_work(office: Office) -> None:
    mail = office.kit.mail("bob@elsewhere.org", trusted=True, body=BODY)
    office.configure()
    plan = office.kit.build(SIGN).start(mail, deadline=office.kit.clock.monotonic() + 30)
    assert isinstance(plan, Plan)  # nobody had to be waited for
    assert not mail.prepended


def test_a_key_that_is_none(office: Office) -> None:
    file = office.key("here.org", "s", ED25519_KEY)
    file.write_text("no key")
    with pytest.raises(ConfigError, match="no private key"):
        check_keys(office.config)
    plan = office.run(office.kit.mail("bob@elsewhere.org", trusted=True, body=BODY))
    (refusal,) = plan.refused.values()
    assert (refusal.code, refusal.status) == (451, "4.7.5")
    assert office.counts == [DKIM_SIGNATURES["failed"]]


def test_keys_are_checked(office: Office) -> None:
    office.key("here.org", "weak", RSA_KEY)
    office.key("here.org", "open", ED25519_KEY).chmod(0o644)
    readable, weak = sorted(check_keys(office.config))
    assert "1024 bits" in weak
    assert "others may read" in readable
    with pytest.raises(ConfigError, match="No such file"):
        Notary(replace(office.config, dkim=Dkim(key=(DkimKey(domain="a.org", selector="s", path="/nowhere/k"),))))


def test_named_keys_take_the_place_of_the_directory(office: Office) -> None:
    office.key("here.org", "old", RSA_KEY)
    path = office.key("here.org", "named", ED25519_KEY, directory="elsewhere")
    office.configure(Dkim(key=(DkimKey(domain="here.org", selector="named", path=str(path)),)))
    (message,) = office.sent(office.kit.mail("bob@elsewhere.org", trusted=True, body=BODY))
    assert_verifies(message, office.zone, 1)
    assert b"s=named" in message


def test_a_reload_takes_new_keys_and_keeps_old_ones(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    read = notary_module.read_key
    monkeypatch.setattr(notary_module, "read_key", lambda place: loads.append(place.selector) or read(place))
    old = office.key("here.org", "s1", RSA_KEY)
    office.configure()
    assert office.notary is not None

    async def main() -> None:
        assert office.notary is not None
        pipeline = office.kit.build(SIGN)

        async def send() -> bytes:
            mail = office.kit.mail("bob@elsewhere.org", trusted=True, body=BODY)
            plan = await pipeline.run(mail, deadline=office.kit.clock.monotonic() + 30)
            return b"".join(plan.queued[0].rendering.chunks())

        messages = await asyncio.gather(*(send() for _ in range(20)))
        assert loads == ["s1"]  # however many wait for it
        office.notary.apply(office.config)
        messages.append(await send())
        assert loads == ["s1"]
        old.rename(old.with_suffix(".retired"))
        office.key("here.org", "s2", OTHER_RSA_KEY)
        office.notary.apply(office.config)
        messages.append(await send())
        assert loads == ["s1", "s2"]
        assert b"s=s2" in messages[-1]
        for message in messages:
            assert_verifies(message, office.zone, 1)

    asyncio.run(main())


def test_too_many_that_wait_are_asked_to_come_back(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.key("here.org", "s", ED25519_KEY)
    monkeypatch.setattr(notary_module, "MAX_WAITING", 0)
    plan = office.run(office.kit.mail("bob@elsewhere.org", trusted=True, body=BODY))
    assert [refusal.code for refusal in plan.refused.values()] == [451]


def test_expiry(office: Office) -> None:
    from rusmes.config.units import Duration

    office.key("here.org", "s", ED25519_KEY)
    office.configure(Dkim(expire=Duration("7d")))
    (message,) = office.sent(office.kit.mail("bob@elsewhere.org", trusted=True, body=BODY))
    now = int(office.kit.clock.now())
    assert b"t=%d; x=%d;" % (now, now + 604_800) in message


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        (b"a@b.org", "b.org"), (b"A <a@B.Org>", "b.org"), (b'"x@evil.org" <a@b.org>', "b.org"),
        (b"<a@b.org> (c@d.org)", "b.org"),
        (b"a@b.org, c@d.org", "b.org"), (b"Team: a@b.org, c@d.org;", "b.org"), (b"a@b\xc3\xbccher.org", "xn--bcher-kva.org"),
        (b"nobody", ""), (b"", ""), (b"a@b.org\r\nFrom: c@d.org", ""), (b"a@[192.0.2.1]", ""), (b"a@b c", ""),
        (b"undisclosed:;", ""),
    ],
)  # fmt: skip
def test_authors(value: bytes, domain: str) -> None:
    assert author_domain(b"To: x@y.org\r\nFrom: " + value + b"\r\nSubject: s\r\n\r\n") == domain


# ARC

SEAL = [("All", "ARCSeal"), ("All", "RemoteDelivery")]


def forwarded(office: Office, body: bytes = BODY) -> Mail:
    return office.kit.mail("bob@elsewhere.org", trusted=False, body=body)


def arc_verdict(message: bytes, zone: Zone) -> bytes:
    result, _, _ = dkim.ARC(message).verify(dnsfunc=zone)
    return b"fail" if result is None else bytes(result)


def test_a_seal_on_a_message_without_one(office: Office) -> None:
    office.key("here.org", "s", RSA_KEY)
    office.key("here.org", "e", ED25519_KEY)
    (message,) = office.sent(forwarded(office), SEAL)
    assert message.endswith(BODY)
    assert arc_verdict(message, office.zone) == b"pass"
    assert b"i=1; mx.here.org;\r\n\tarc=none smtp.remote-ip=192.0.2.1;\r\n\tdkim=none\r\n" in message
    assert office.counts == [ARC_SEALS["none"]]


def test_seals_upon_seals(office: Office) -> None:
    """Ours over theirs, theirs over ours."""
    office.key("here.org", "s", RSA_KEY)
    office.zone["theirs._domainkey.there.org"] = public_record(OTHER_RSA_KEY).encode()
    message = BODY
    for round_ in range(4):
        (message,) = office.sent(forwarded(office, message), SEAL)
        assert arc_verdict(message, office.zone) == b"pass", round_
        message = b"Authentication-Results: mx%d.there.org; arc=pass\r\n" % round_ + message
        lines = dkim.arc_sign(
            message, b"theirs", b"there.org", pem_of(OTHER_RSA_KEY), b"mx%d.there.org" % round_,
            include_headers=[b"from", b"subject"],
        )  # fmt: skip
        message = b"".join(lines) + message
        assert arc_verdict(message, office.zone) == b"pass"
    assert office.counts == [ARC_SEALS["none"], *[ARC_SEALS["pass"]] * 3]
    chain = read_chain(message.partition(b"\r\n\r\n")[0] + b"\r\n")
    assert [one.seal.validation for one in chain.sets] == ["none", *["pass"] * 7]


def test_a_chain_that_broke_is_said_to_be_broken_and_then_left_alone(office: Office) -> None:
    office.key("here.org", "s", RSA_KEY)
    (message,) = office.sent(forwarded(office), SEAL)
    changed = message.replace(b"hello", b"hullo")
    (message,) = office.sent(forwarded(office, changed), SEAL)
    assert b"i=2; mx.here.org;\r\n\tarc=fail" in message
    assert b"cv=fail" in message
    assert arc_verdict(message, office.zone) == b"fail"
    (again,) = office.sent(forwarded(office, message), SEAL)
    assert again == message
    assert office.counts == [ARC_SEALS["none"], ARC_SEALS["fail"], ARC_SEALS["skipped"]]


def test_what_the_signatures_are_worth_is_sealed(office: Office) -> None:
    office.key("here.org", "s", RSA_KEY)
    office.zone["k._domainkey.there.org"] = public_record(ED25519_KEY).encode()
    line = dkim.sign(BODY, b"k", b"there.org", pem_of(OTHER_RSA_KEY), include_headers=[b"from"])
    office.zone["k._domainkey.there.org"] = public_record(OTHER_RSA_KEY).encode()
    (message,) = office.sent(forwarded(office, line + BODY), SEAL)
    assert b"dkim=pass header.d=there.org header.s=k header.a=rsa-sha256" in message
    (message,) = office.sent(forwarded(office, line + BODY.replace(b"hello", b"hullo")), SEAL)
    assert b'dkim=fail reason="the body has changed" header.d=there.org' in message
    assert arc_verdict(message, office.zone) == b"pass"


def test_what_is_examined_is_the_message_as_it_came(office: Office) -> None:
    """A step that marks the subject breaks the author's signature for others; here it was good, and the seal says so."""
    office.key("here.org", "s", RSA_KEY)
    office.zone["k._domainkey.there.org"] = public_record(OTHER_RSA_KEY).encode()
    body = BODY.replace(b"hello", b"w" * 1200)
    line = dkim.sign(body, b"k", b"there.org", pem_of(OTHER_RSA_KEY), include_headers=[b"from", b"subject"])
    steps = [("All", "AddHeader", {"name": "Subject", "value": "[list] one", "replace": True}), *SEAL]
    (message,) = office.sent(forwarded(office, line + body), steps)
    assert b"dkim=pass header.d=there.org" in message
    wire = BodyEncoder(dots=False).whole(message)
    assert not dkim.verify(wire, dnsfunc=office.zone)
    assert arc_verdict(wire, office.zone) == b"pass"
    (again,) = office.sent(forwarded(office, wire), SEAL)
    assert b"cv=pass" in again


def test_a_chain_of_which_a_step_has_taken_a_part(office: Office) -> None:
    office.key("here.org", "s", RSA_KEY)
    (message,) = office.sent(forwarded(office), SEAL)
    (some,) = office.sent(forwarded(office, message), [("All", "RemoveHeader", {"names": "ARC-Seal"}), *SEAL])
    assert b"cv=fail" in some
    names = {"names": "ARC-Seal, ARC-Message-Signature, ARC-Authentication-Results"}
    (none,) = office.sent(forwarded(office, message), [("All", "RemoveHeader", names), *SEAL])
    assert arc_verdict(none, office.zone) == b"pass"
    assert none.count(b"ARC-Seal: i=1;") == 1


def test_results_of_a_step_before_are_sealed_as_they_are(office: Office) -> None:
    office.key("here.org", "s", RSA_KEY)
    mail = forwarded(office)
    mail.prepended = [b"Authentication-Results: mx.here.org; spf=pass smtp.mailfrom=a@b.org; dmarc=pass\r\n"]
    (message,) = office.sent(mail, SEAL)
    assert b"i=1; mx.here.org;\r\n\tspf=pass smtp.mailfrom=a@b.org;\r\n\tdmarc=pass\r\n" in message
    assert arc_verdict(message, office.zone) == b"pass"


def test_without_an_answer_of_the_dns_nothing_is_claimed(office: Office) -> None:
    office.key("here.org", "slow", RSA_KEY)
    (message,) = office.sent(forwarded(office), SEAL)
    (again,) = office.sent(forwarded(office, message), SEAL)
    assert again == message
    assert office.counts[-1] == ARC_SEALS["skipped"]


def test_mail_of_our_own_is_not_sealed(office: Office) -> None:
    office.key("here.org", "s", RSA_KEY)
    mail = office.kit.mail("bob@elsewhere.org", trusted=True, body=BODY)
    assert office.sent(mail, SEAL) == [BODY]


def test_a_full_chain_is_left_alone(office: Office) -> None:
    office.key("here.org", "s", RSA_KEY)
    body = b"ARC-Seal: i=50; a=rsa-sha256; cv=pass; d=a.org; s=s; b=AAAA\r\n" + BODY
    assert office.sent(forwarded(office, body), SEAL) == [body]


