"""The SMTP service extensions and their relatives, on the wire: what EHLO promises works."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import ssl

import pytest

from rusmes.sasl.client import ScramClient
from tests.conformance.rows.relaying import plain
from tests.sessions.harness import STRANGER, Bench, Client, run

BODY = b"Subject: x\r\n\r\nhello\r\n"
MAIL = "MAIL FROM:<a@client.example>"
RCPT = "RCPT TO:<alice@example.com>"
GOOD = plain("alice@example.com", "s3cret-alice")


async def keywords(client: Client, hello: str = "EHLO client.example") -> dict[str, str]:
    reply = await client.command(hello, 250)
    return {line.split(" ")[0]: line.partition(" ")[2] for line in reply.lines[1:]}


@pytest.mark.rfc("1870", "4")
@pytest.mark.rfc("1870", "6")
def test_size() -> None:
    async def scenario() -> None:
        async with Bench(smtp__max_message_size=4096) as bench, bench.greeted() as client:
            assert (await keywords(client))["SIZE"] == "4096"
            await client.command(MAIL + " SIZE=4097", 552, "5.3.4")
            await client.command(MAIL + " SIZE=4096", 250)
            await client.command(RCPT, 250)
            # An announcement that is too small does no harm, the limit counts.
            await client.data(b"Subject: x\r\n\r\n" + b"y" * 4000, 250)
            await client.transaction()
            await client.data(b"Subject: x\r\n\r\n" + b"y" * 4100, 552, "5.3.4")

    run(scenario())


@pytest.mark.rfc("6152", "3")
def test_8bitmime() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            assert "8BITMIME" in await keywords(client)
            await client.command(MAIL + " BODY=8BITMIME", 250)
            await client.command(RCPT, 250)
            body = "Subject: x\r\n\r\nGrüße\r\n".encode()
            await client.data(body, 250)
            assert bench.intake.mails[0].body_type == "8BITMIME"
            assert bench.bodies == [body]
            await client.command(MAIL + " BODY=7BIT", 250)

    run(scenario())


@pytest.mark.rfc("6531", "3.4")
@pytest.mark.rfc("6531", "3.7.3")
def test_smtputf8() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            assert "SMTPUTF8" in await keywords(client)
            bench.directory.accounts.add("jürgen@example.com")
            await client.command("MAIL FROM:<ülrich@bücher.example> SMTPUTF8 BODY=8BITMIME", 250)
            await client.command("RCPT TO:<jürgen@example.com>", 250)
            await client.data("Subject: Grüße\r\n\r\n".encode(), 250)
            mail = bench.intake.mails[0]
            assert (str(mail.sender), mail.recipients[0].account) == ("ülrich@xn--bcher-kva.example", "jürgen@example.com")
            assert "with UTF8SMTP id" in mail.content.read().decode()
            assert "for <jürgen@example.com>" in mail.content.read().decode()

    run(scenario())


@pytest.mark.rfc("2034", "4")
def test_enhanced_status_codes_on_every_reply_but_the_exempt() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            assert "ENHANCEDSTATUSCODES" in await keywords(client)
            for line in (
                "NOOP",
                "XYZZY",
                "MAIL",
                MAIL,
                MAIL,
                RCPT,
                "RCPT TO:<x@example.com>",
                "VRFY a",
                "EXPN a",
                "HELP",
                "RSET",
            ):
                reply = await client.command_any(line)
                assert reply.status.startswith(str(reply.code)[0] + "."), reply

    run(scenario())


@pytest.mark.rfc("2920", "3.2")
def test_pipelined_replies_leave_together() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            assert "PIPELINING" in await keywords(client)
            client.send(f"RSET\r\n{MAIL}\r\n{RCPT}\r\n{RCPT}\r\nDATA\r\n")
            said = await asyncio.wait_for(client.reader.read(4096), 5)
            assert [line[:3] for line in said.split(b"\r\n")[:-1]] == [b"250", b"250", b"250", b"250", b"354"]

    run(scenario())


@pytest.mark.rfc("3030", "2")
@pytest.mark.rfc("3030", "3")
def test_chunking_and_binarymime() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            words = await keywords(client)
            assert {"CHUNKING", "BINARYMIME"} <= set(words)
            await client.command(MAIL + " BODY=BINARYMIME", 250)
            await client.command(RCPT, 250)
            chunks = [b"Subject: b\r\n\r\n", bytes(range(256)) * 300, b"\r\n.\r\nQUIT\r\n"]
            for chunk in chunks[:-1]:
                client.send(b"BDAT %d\r\n%s" % (len(chunk), chunk))
                await client.expect(250)
            client.send(b"BDAT %d LAST\r\n%s" % (len(chunks[-1]), chunks[-1]))
            await client.expect(250)
            assert bench.bodies == [b"".join(chunks)]

    run(scenario())


@pytest.mark.rfc("3207", "4.2")
def test_starttls_starts_over() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            assert (await keywords(client))["STARTTLS"] == ""
            await client.start_tls()
            await client.command(MAIL, 503)
            assert "STARTTLS" not in await keywords(client, "EHLO other.example")
            await client.transaction()
            await client.data(BODY, 250)
            mail = bench.intake.mails[0]
            assert (mail.origin.helo, mail.origin.protocol) == ("other.example", "ESMTPS")
            assert mail.origin.tls.startswith("TLSv1.3 ")

    run(scenario())


@pytest.mark.rfc("3461", "4")
@pytest.mark.rfc("6533", "4")
def test_dsn_parameters_are_kept() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            assert "DSN" in await keywords(client)
            await client.command(MAIL + " RET=FULL ENVID=QQ314159 SMTPUTF8", 250)
            await client.command("RCPT TO:<alice@example.com> NOTIFY=NEVER", 250)
            await client.command("RCPT TO:<bob@example.com> NOTIFY=SUCCESS ORCPT=utf-8;b\\x{F6}b@example.com", 250)
            await client.data(BODY, 250)
            mail = bench.intake.mails[0]
            assert (mail.ret, mail.envid) == ("FULL", "QQ314159")
            assert [(r.notify, r.orcpt) for r in mail.recipients] == [(1, ""), (2, "utf-8;böb@example.com")]

    run(scenario())


@pytest.mark.rfc("4954", "4")
def test_auth_every_mechanism() -> None:
    async def scenario() -> None:
        async with Bench("submission") as bench:
            async with bench.greeted(STRANGER) as client:
                assert "AUTH" not in await keywords(client)
                await client.start_tls()
                offered = (await keywords(client))["AUTH"].split()
                assert {"PLAIN", "LOGIN", "SCRAM-SHA-256"} <= set(offered)
                await client.command(GOOD, 235, "2.7.0")
                assert "AUTH" not in await keywords(client)
            async with bench.greeted() as client:
                scram = ScramClient("alice@example.com", "s3cret-alice")
                line = f"AUTH {scram.name} {base64.b64encode(scram.initial() or b'').decode()}"
                reply = await client.command(line, 334)
                reply = await client.command(base64.b64encode(scram.respond(base64.b64decode(reply.text))), 334)
                reply = await client.command(base64.b64encode(scram.respond(base64.b64decode(reply.text))), 235)
                scram.finished()
            async with bench.greeted() as client:
                reply = await client.command("AUTH LOGIN", 334)
                assert base64.b64decode(reply.text) == b"Username:"
                await client.command(base64.b64encode(b"alice@example.com"), 334)
                await client.command(base64.b64encode(b"s3cret-alice"), 235)
                # RFC 4954 §7: ESMTPA
                await client.transaction("<alice@example.com>", "<bob@example.com>")
                await client.data(BODY, 250)
                assert bench.intake.mails[0].origin.protocol == "ESMTPA"

    run(scenario())


@pytest.mark.rfc("4954", "5")
def test_auth_parameter_of_mail() -> None:
    async def scenario() -> None:
        async with Bench("submission") as bench, bench.greeted() as client:
            await client.command(GOOD, 235)
            for value in ("<>", "e+3Dmc2@example.com", "alice@example.com"):
                await client.command(f"MAIL FROM:<alice@example.com> AUTH={value}", 250)
                await client.command("RSET", 250)
            await client.command("MAIL FROM:<alice@example.com> AUTH=e=mc2", 501)

    run(scenario())


@pytest.mark.rfc("5802", "6")
@pytest.mark.rfc("5929", "4")
def test_scram_plus_is_offered_when_a_channel_can_be_bound() -> None:
    """Under TLS 1.2 Python can give tls-unique; the proof covers it."""

    async def scenario() -> None:
        async with Bench("submission") as bench, bench.greeted() as client:
            await client.command("STARTTLS", 220)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            await client.writer.start_tls(context)
            assert "SCRAM-SHA-256-PLUS" in (await keywords(client))["AUTH"].split()
            unique = client.writer.get_extra_info("ssl_object").get_channel_binding("tls-unique")
            scram = ScramClient("alice@example.com", "s3cret-alice", binding_type="tls-unique", binding_data=unique)
            line = f"AUTH {scram.name} {base64.b64encode(scram.initial() or b'').decode()}"
            reply = await client.command(line, 334)
            reply = await client.command(base64.b64encode(scram.respond(base64.b64decode(reply.text))), 334)
            await client.command(base64.b64encode(scram.respond(base64.b64decode(reply.text))), 235)

    run(scenario())


@pytest.mark.rfc("6409", "8")
def test_submission_completes_the_header() -> None:
    async def scenario() -> None:
        async with Bench("submission") as bench, bench.greeted() as client:
            await client.command(GOOD, 235)
            await client.transaction("<alice@example.com>", "<someone@far.example>")
            await client.data(b"From: alice@example.com\r\nBcc: secret@far.example\r\n\r\n", 250)
            mail = bench.intake.mails[0]
            assert re.fullmatch(rb"Message-ID: <\w+@mx\.example\.com>\r\n", mail.prepended[0])
            assert mail.prepended[1].startswith(b"Date: ")
            assert not mail.removed  # nothing else is touched

    run(scenario())


@pytest.mark.rfc("8689", "4.1")
def test_requiretls() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            assert "REQUIRETLS" not in await keywords(client)
            await client.command(MAIL + " REQUIRETLS", 555)
            await client.start_tls()
            assert (await keywords(client))["REQUIRETLS"] == ""
            await client.command(MAIL + " REQUIRETLS", 250)
            await client.command(RCPT, 250)
            await client.data(BODY, 250)
            assert bench.intake.mails[0].requiretls
            await client.command(MAIL + " REQUIRETLS=x", 501)

    run(scenario())


@pytest.mark.rfc("9422", "4")
def test_limits() -> None:
    async def scenario() -> None:
        async with Bench(smtp__max_recipients=2) as bench, bench.greeted() as client:
            assert (await keywords(client))["LIMITS"] == "RCPTMAX=2"
            await client.transaction("<a@client.example>", "<alice@example.com>", "<bob@example.com>")
            await client.command("RCPT TO:<alice+x@example.com>", 452, "4.5.3")
        async with Bench(smtp__max_messages_per_connection=1) as bench, bench.greeted() as client:
            assert (await keywords(client))["LIMITS"] == "RCPTMAX=1000 MAILMAX=1"
            await client.transaction()
            await client.data(BODY, 250)
            await client.command(MAIL, 421)

    run(scenario())


@pytest.mark.rfc("2033", "4.2")
@pytest.mark.rfc("2033", "4.3")
def test_lmtp_replies_for_each_recipient() -> None:
    async def scenario() -> None:
        async with Bench("lmtp") as bench, bench.greeted(hello="LHLO mta.example") as client:
            words = await keywords(client, "LHLO mta.example")
            assert {"PIPELINING", "ENHANCEDSTATUSCODES", "8BITMIME"} <= set(words)  # RFC 2033 §5
            assert "AUTH" not in words
            await client.transaction("<>", "<alice@example.com>", "<bob@example.com>")
            client.send(b"BDAT 2\r\na:BDAT 5 LAST\r\nb\r\n\r\n")
            await client.expect(250)
            for _ in range(2):
                await client.expect(250)
            await client.command("NOOP", 250)
            assert bench.bodies == [b"a:b\r\n\r\n"]
            await client.command("HELO mta.example", 500)
            # RFC 2033 §4.2: no valid recipient, so DATA fails.
            await client.command("MAIL FROM:<>", 250)
            await client.command("RCPT TO:<nobody@example.com>", 550)
            await client.command("DATA", 554)

    run(scenario())


@pytest.mark.rfc("8601", "5")
def test_results_under_our_name_are_removed() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted(STRANGER) as client:
            await client.transaction()
            await client.data(b"Authentication-Results: mx.example.com; dkim=pass header.d=bank.example\r\n" + BODY, 250)
            mail = bench.intake.mails[0]
            assert (mail.removed, mail.prepended) == ({"authentication-results"}, [])

    run(scenario())


def test_the_fake_keeps_keys_like_the_real_one() -> None:
    """RFC 5802 §3, so that the SCRAM tests above mean something."""

    async def scenario() -> None:
        async with Bench("submission") as bench:
            from rusmes.auth.api import Attempt, ScramCredentials

            keys = await bench.authenticator.scram_credentials("alice@example.com", Attempt("", ""))
            assert isinstance(keys, ScramCredentials)
            salted = hashlib.pbkdf2_hmac("sha256", b"s3cret-alice", keys.salt, keys.iterations)
            assert keys.server_key == hmac.digest(salted, b"Server Key", "sha256")

    run(scenario())
