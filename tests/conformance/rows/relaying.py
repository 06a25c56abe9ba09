"""R1 to R18: who may send to whom, and what does not help a stranger; B1 to B4 and B8: notices."""

from __future__ import annotations

import base64

from rusmes.model.mail import NOTIFY_DELAY, NOTIFY_FAILURE, NOTIFY_SUCCESS
from tests.conformance.rows import row
from tests.sessions.harness import STRANGER, Bench, Client, networks

FROM = "MAIL FROM:<a@client.example>"


async def recipients(client: Client, *addresses: str) -> list[int]:
    """The reply codes to each recipient, in one transaction."""
    await client.command(FROM, 250)
    codes = []
    for address in addresses:
        client.send(f"RCPT TO:<{address}>\r\n")
        codes.append((await client.reply()).code)
    await client.command("RSET", 250)
    return codes


def plain(account: str, password: str) -> str:
    return "AUTH PLAIN " + base64.b64encode(f"\0{account}\0{password}".encode()).decode()


@row("R1")
async def foreign_recipient(id: str) -> None:
    async with Bench() as bench:
        async with bench.greeted(STRANGER) as client:
            await client.command(FROM, 250)
            await client.command("RCPT TO:<user@foreign.example>", 554, "5.7.1")
            await client.command("DATA", 554)
        async with bench.greeted() as client:
            await client.transaction("<a@client.example>", "<user@foreign.example>")
            await client.data(b"Subject: x\r\n\r\n", 250)
            assert bench.intake.mails[0].origin.trusted


@row("R2", "R3", "R4")
async def hidden_routes(id: str) -> None:
    forms = {
        "R2": ("user%foreign.example@example.com", "%foreign.example@example.com"),
        "R3": ("foreign.example!user@example.com", "example.com!foreign.example!user", "foreign.example!user@"),
        "R4": ('"user@foreign.example"@example.com', '"user@foreign.example"'),
    }[id]
    async with Bench() as bench, bench.greeted(STRANGER) as client:
        assert all(code >= 500 for code in await recipients(client, *forms))
    # Unless a mailbox literally has that name: then it is that mailbox, and nothing is relayed.
    async with Bench() as bench, bench.greeted(STRANGER) as client:
        bench.directory.accounts.add("user%foreign.example@example.com")
        assert await recipients(client, "user%foreign.example@example.com") == [250]


@row("R5")
async def several_domains(id: str) -> None:
    async with Bench() as bench, bench.greeted(STRANGER) as client:
        codes = await recipients(client, "user@foreign.example@example.com", "@example.com:user@foreign.example")
        assert codes == [501, 554]


@row("R6")
async def address_literals(id: str) -> None:
    async with Bench() as bench, bench.greeted(STRANGER) as client:
        literals = ("alice@[127.0.0.1]", "alice@[127.0.0.66]", "alice@[IPv6:::1]")
        assert await recipients(client, *literals) == [554, 554, 554]
        bench.directory.domains.add("[127.0.0.1]")
        bench.directory.accounts.add("alice@[127.0.0.1]")
        assert await recipients(client, *literals) == [250, 554, 554]


@row("R7")
async def incomplete_addresses(id: str) -> None:
    async with Bench() as bench, bench.greeted(STRANGER) as client:
        assert all(code in (501, 550) for code in await recipients(client, "alice", "alice@", "@example.com", ""))
        # RFC 5321 §4.5.1
        assert await recipients(client, "postmaster", "Postmaster") == [250, 250]


@row("R8")
async def canonical_domains(id: str) -> None:
    async with Bench() as bench, bench.greeted(STRANGER) as client:
        bench.directory.domains.add("xn--bcher-kva.example")
        bench.directory.accounts.add("alice@xn--bcher-kva.example")
        same = ("alice@example.com.", "ALICE@EXAMPLE.COM", "alice@XN--bcher-KVA.example")
        assert await recipients(client, *same) == [250, 250, 250]
        await client.command(FROM + " SMTPUTF8", 250)
        await client.command("RCPT TO:<alice@bücher.example>", 250)
        await client.command("RCPT TO:<alice@BÜCHER.example.>", 250)
        await client.command("RCPT TO:<user@foreign.example.>", 554)


@row("R9", "R10", "R11")
async def no_right_by_claim(id: str) -> None:
    hello, sender = {
        "R9": ("client.example", "<alice@example.com>"),
        "R10": ("client.example", "<>"),
        "R11": ("localhost", "<a@client.example>"),
    }[id]
    async with Bench() as bench:
        for name in (hello, "[127.0.0.1]"):
            async with bench.greeted(STRANGER, f"EHLO {name}") as client:
                await client.command(f"MAIL FROM:{sender}", 250)
                await client.command("RCPT TO:<user@foreign.example>", 554, "5.7.1")


@row("R12")
async def proxy_header_of_a_stranger(id: str) -> None:
    """Where no PROXY header is expected, it is a command nobody knows. (Where it is, `tests/unit/net` has the row.)"""
    async with Bench(server__proxy_networks=networks("127.0.0.1/32")) as bench:
        client = await bench.connect(STRANGER)
        await client.expect(220)
        await client.command(f"PROXY TCP4 127.0.0.1 {STRANGER} 1234 25", 500)
        await client.command("EHLO client.example", 250)
        assert await recipients(client, "user@foreign.example") == [554]
        assert all(f'"client":"{STRANGER}"' in line for line in bench.lines)


@row("R13")
async def xclient_of_a_stranger(id: str) -> None:
    async with Bench(server__proxy_networks=networks("127.0.0.1/32")) as bench, bench.greeted(STRANGER) as client:
        reply = await client.command("EHLO client.example", 250)
        assert "XCLIENT" not in reply.text
        await client.command("XCLIENT ADDR=127.0.0.1", 550, "5.7.0")
        assert await recipients(client, "user@foreign.example") == [554]


@row("R14")
async def xclient_of_a_proxy(id: str) -> None:
    async with Bench(server__proxy_networks=networks("127.0.0.1/32")) as bench, bench.greeted() as client:
        reply = await client.command("EHLO proxy.example", 250)
        assert "XCLIENT NAME ADDR PORT PROTO HELO LOGIN" in reply.lines
        assert await recipients(client, "user@foreign.example") == [250]
        await client.transaction()
        await client.command("XCLIENT ADDR=192.0.2.9", 503)  # not in a transaction
        await client.command("RSET", 250)
        for bad in ("ADDR=nonsense", "XYZZY=1", "PORT=99999999", "HELO=x+0D+0ARCPT", "NAME", "ADDR=192.0.2.9 ADDR=192.0.2.8"):
            await client.command(f"XCLIENT {bad}", 501)
        await client.command("XCLIENT ADDR=192.0.2.9 PORT=4711 NAME=client.example.net HELO=client+2Eexample", 220)
        await client.command("MAIL FROM:<a@client.example>", 503)  # the state is that of a new connection
        await client.command("EHLO proxy.example", 250)
        assert await recipients(client, "user@foreign.example", "alice@example.com") == [554, 250]
        await client.command("XCLIENT ADDR=127.0.0.1", 550)  # the stranger does not speak for others
        await client.transaction()
        await client.data(b"Subject: x\r\n\r\n", 250)
        mail = bench.intake.mails[0]
        assert (mail.origin.client_address, mail.origin.client_port) == ("192.0.2.9", 4711)
        assert not mail.origin.trusted
        assert b"from client.example (client.example.net [192.0.2.9])" in mail.content.read()
        assert bench.logged('"client":"192.0.2.9"')
    async with Bench(server__proxy_networks=networks("127.0.0.1/32")) as bench, bench.greeted() as client:
        await client.command("XCLIENT ADDR=IPV6:2001:db8::9 LOGIN=alice@example.com NAME=[UNAVAILABLE]", 220)
        await client.command("EHLO proxy.example", 250)
        await client.transaction("<alice@example.com>", "<user@foreign.example>")
        await client.data(b"Subject: x\r\n\r\n", 250)
        assert bench.intake.mails[0].origin.account == "alice@example.com"
        assert bench.intake.mails[0].origin.client_address == "2001:db8::9"


@row("R17")
async def sender_of_another(id: str) -> None:
    senders = {
        "own-addresses": {"alice@example.com": 250, "ALICE+shop@example.com": 250, "bob@example.com": 553,
                          "alice@foreign.example": 553, "sales@example.com": 250, "": 250},
        "own-domain": {"bob@example.com": 250, "alice@foreign.example": 553, "": 250},
        "any": {"x@foreign.example": 250},
    }  # fmt: skip
    for check, expected in senders.items():
        async with Bench("submission", submission__sender_check=check) as bench, bench.greeted() as client:
            identity = await bench.directory.identity("alice@example.com")
            assert identity is not None
            bench.authenticator.identities["alice@example.com"] = type(identity)(
                identity.account, frozenset({"alice@example.com", "sales@example.com"})
            )
            await client.command(plain("alice@example.com", "s3cret-alice"), 235)
            for sender, code in expected.items():
                await client.command(f"MAIL FROM:<{sender}>", code, "5.7.1" if code == 553 else "")
                await client.command("RSET", 250)


@row("R18")
async def rights_that_do_not_carry_over(id: str) -> None:
    """A login is of one connection; no RSET or EHLO makes one or ends it (RFC 4954 §4), STARTTLS ends it."""
    async with Bench("submission") as bench:
        async with bench.greeted() as client:
            for line in ("RSET", "EHLO client.example", "RSET"):
                await client.command(line, 250)
            await client.command("MAIL FROM:<alice@example.com>", 530)
            await client.command(plain("alice@example.com", "s3cret-alice"), 235)
            await client.command("EHLO client.example", 250)
            await client.transaction("<alice@example.com>")
            await client.data(b"Subject: x\r\n\r\n", 250)
            await client.start_tls()
            await client.command("EHLO client.example", 250)
            await client.command("MAIL FROM:<alice@example.com>", 530)
        async with bench.greeted() as client:
            await client.command("MAIL FROM:<alice@example.com>", 530)


@row("B1")
async def notices_for_strangers(id: str) -> None:
    async with Bench() as bench:
        async with bench.greeted(STRANGER) as client:
            assert "DSN" not in (await client.command("EHLO client.example", 250)).lines
            await client.command(FROM + " RET=HDRS", 555, "5.5.4")
            await client.command(FROM, 250)
            await client.command("RCPT TO:<alice@example.com> NOTIFY=SUCCESS", 555, "5.5.4")
        async with bench.greeted() as client:
            assert "DSN" in (await client.command("EHLO client.example", 250)).lines
            await client.command(FROM + " RET=HDRS ENVID=+41bc", 250)
            await client.command("RCPT TO:<alice@example.com> NOTIFY=SUCCESS ORCPT=rfc822;al+2Bice@example.com", 250)
            await client.command("RCPT TO:<bob@example.com> NOTIFY=FAILURE,DELAY", 250)
            await client.data(b"Subject: x\r\n\r\n", 250)
            mail = bench.intake.mails[0]
            assert (mail.ret, mail.envid) == ("HDRS", "Abc")
            assert [r.notify for r in mail.recipients] == [NOTIFY_SUCCESS, NOTIFY_FAILURE | NOTIFY_DELAY]
            assert mail.recipients[0].orcpt == "rfc822;al+ice@example.com"


@row("B2", "B3", "B4")
async def malformed_notice_parameters(id: str) -> None:
    mail_parameters, rcpt_parameters = {
        "B2": ((), ("NOTIFY=NEVER,SUCCESS", "NOTIFY=", "NOTIFY=SOMETIMES", "NOTIFY")),
        "B3": (
            (),
            ("ORCPT=rfc822;a+2", "ORCPT=rfc822;a=b", "ORCPT=rfc822;" + "x" * 500,
             "ORCPT=x400;a", "ORCPT=rfc822", "ORCPT=rfc822;a+0D+0Ab"),
        ),
        "B4": (("ENVID=" + "x" * 101, "ENVID=a+2", "ENVID=a+0Ab", "ENVID", "RET=ALL"), ()),
    }[id]  # fmt: skip
    async with Bench() as bench, bench.greeted() as client:
        for parameter in mail_parameters:
            await client.command(f"{FROM} {parameter}", 501, "5.5.4")
        await client.command(FROM, 250)
        for parameter in rcpt_parameters:
            await client.command(f"RCPT TO:<alice@example.com> {parameter}", 501, "5.5.4")


@row("B8")
async def unknown_local_recipient(id: str) -> None:
    async with Bench() as bench:
        for source in (STRANGER, "127.0.0.1"):
            async with bench.greeted(source) as client:
                await client.command(FROM, 250)
                await client.command("RCPT TO:<nobody@example.com>", 550, "5.1.1")
    async with Bench("lmtp") as bench, bench.greeted(hello="LHLO mta.example") as client:
        await client.command(FROM, 250)
        await client.command("RCPT TO:<nobody@example.com>", 550, "5.1.1")
        await client.command("RCPT TO:<user@foreign.example>", 554, "5.7.1")
    async with Bench(security__reject_unknown_recipients=False) as bench, bench.greeted(STRANGER) as client:
        assert await recipients(client, "nobody@example.com", "user@foreign.example") == [250, 554]
    async with Bench(security__check_recipient_exists=False) as bench, bench.greeted(STRANGER) as client:
        assert await recipients(client, "nobody@example.com", "user@foreign.example") == [250, 554]
        assert bench.directory.lookups == 0
