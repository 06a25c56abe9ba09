"""What the service does around the dialogue: failing storage, overload, quotas, rates, draining, reload, numbers, lines."""

from __future__ import annotations

import asyncio
import json
from unittest.mock import patch

from rusmes.errors import AuthUnavailable, StoreError, StoreFull
from rusmes.metrics import (
    MESSAGE_SECONDS,
    SMTP_COMMANDS,
    SMTP_CONNECTIONS,
    SMTP_ERRORS,
    SMTP_MESSAGE_BYTES,
    SMTP_MESSAGES,
    SMTP_MESSAGES_RECEIVED,
    SMTP_RECIPIENTS,
    SMTP_REPLIES,
    SMTP_SESSION_SECONDS,
    TLS_SESSIONS,
)
from rusmes.model.address import Address
from rusmes.model.plan import Refusal
from tests.conformance.rows.relaying import plain
from tests.sessions.harness import STRANGER, Bench, make_config, networks, run

BODY = b"Subject: x\r\n\r\nhello\r\n"
GOOD = plain("alice@example.com", "s3cret-alice")


def test_store_full_and_recovery() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            bench.intake.error = StoreFull("no space")
            await client.transaction()
            await client.data(BODY, 452, "4.3.1")
            bench.intake.error = StoreError("disk fails")
            await client.transaction()
            await client.data(BODY, 451, "4.3.0")
            bench.intake.error = RuntimeError("a defect")
            await client.transaction()
            await client.data(BODY, 451, "4.3.0")
            assert bench.logged("RuntimeError: a defect")
            bench.intake.error = None
            bench.intake.write_error = StoreError("disk fails")
            await client.transaction()
            await client.command("DATA", 451, "4.3.0")
            bench.intake.write_error = None
            await client.data(BODY, 250)  # the same transaction
            assert bench.bodies == [BODY]
            assert not bench.intake.open_writers

    run(scenario())


def test_overload_is_refused_before_any_work() -> None:
    async def scenario() -> None:
        async with Bench() as bench:
            async with bench.greeted() as early:
                bench.intake.admission = Refusal(421, "4.3.2", "too busy")
                client = await bench.connect()
                await client.expect(421, "4.3.2")
                assert await client.is_closed()
                # On a connection that is there already, one transaction is refused, not the connection.
                await early.command("MAIL FROM:<a@b.example>", 452, "4.3.2")
                bench.intake.admission = Refusal(452, "4.3.1", "no space")
                await early.command("MAIL FROM:<a@b.example>", 452, "4.3.1")
                bench.intake.admission = None
                await early.command("MAIL FROM:<a@b.example>", 250)
            bench.intake.admission = Refusal(452, "4.3.1", "no space")
            async with bench.greeted() as client:
                await client.command("MAIL FROM:<a@b.example>", 452, "4.3.1")

    run(scenario())


def test_full_mailbox_is_refused_at_rcpt() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            bench.intake.full_accounts.add("bob@example.com")
            await client.command("MAIL FROM:<a@b.example> SIZE=1234", 250)
            await client.command("RCPT TO:<bob@example.com>", 452, "4.2.2")
            await client.command("RCPT TO:<alice+x@example.com>", 250)
            assert bench.intake.asked == [("bob@example.com", 1234), ("alice@example.com", 1234)]
            await client.data(BODY, 250)
            recipient = bench.intake.mails[0].recipients[0]
            assert (str(recipient.address), recipient.account) == ("alice+x@example.com", "alice@example.com")

    run(scenario())


def test_aliases_are_accepted_and_left_to_the_pipeline() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted(STRANGER) as client:
            bench.directory.aliases["sales@example.com"] = [Address("x", "far.example")]
            bench.directory.aliases["old@example.net"] = [Address("alice", "example.com")]
            await client.transaction("<a@b.example>", "<sales@example.com>", "<old@example.net>")
            await client.data(BODY, 250)
            assert [r.account for r in bench.intake.mails[0].recipients] == ["", ""]
            assert not any(r.forwarded for r in bench.intake.mails[0].recipients)

    run(scenario())


def test_directory_that_cannot_answer() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            bench.directory.error = AuthUnavailable("ldap is down")
            await client.command("MAIL FROM:<a@b.example>", 250)
            await client.command("RCPT TO:<alice@example.com>", 451, "4.3.0")
            bench.directory.error = None
            await client.command("RCPT TO:<alice@example.com>", 250)

    run(scenario())


def test_refusals_of_the_pipeline() -> None:
    async def scenario() -> None:
        permanent, temporary = Refusal(550, "5.7.1", "spam"), Refusal(451, "4.7.1", "greylisted")
        async with Bench() as bench, bench.greeted() as client:
            bench.intake.refuse = {"alice@example.com": permanent}
            await client.transaction()
            await client.data(BODY, 550, "5.7.1")
            await client.transaction("<a@b.example>", "<alice@example.com>", "<bob@example.com>")
            await client.data(BODY, 250)  # one of two: the pipeline bounces the other
            bench.intake.refuse["bob@example.com"] = temporary
            await client.transaction("<a@b.example>", "<alice@example.com>", "<bob@example.com>")
            await client.data(BODY, 451, "4.7.1")
            assert bench.metrics.count(SMTP_MESSAGES["rejected"]) == 1
            assert bench.metrics.count(SMTP_MESSAGES["deferred"]) == 1
        async with Bench("lmtp") as bench, bench.greeted(hello="LHLO mta.example") as client:
            bench.intake.refuse = {"alice@example.com": permanent, "postmaster@example.com": temporary}
            recipients = ("<alice@example.com>", "<bob@example.com>", "<postmaster@example.com>")
            await client.transaction("<a@b.example>", *recipients)
            await client.data(BODY, 550, "5.7.1")
            await client.expect(250, "2.0.0")
            await client.expect(451, "4.7.1")
            await client.transaction("<a@b.example>", recipients[0], recipients[2])
            await client.data(BODY, 550, "5.7.1")
            await client.expect(451, "4.7.1")
            await client.command("NOOP", 250)
            # Text that came from elsewhere breaks no line.
            bench.intake.refuse = {"alice@example.com": Refusal(550, "5.7.1", "two\r\nlines\0 and jürgen")}
            await client.transaction("<a@b.example>", recipients[0])
            await client.data(BODY, 550, "5.7.1")
            await client.command("NOOP", 250)
            # A store that fails fails for every recipient.
            bench.intake.error = StoreFull("no space")
            await client.transaction("<a@b.example>", *recipients[:2])
            await client.data(BODY, 452, "4.3.1")
            await client.expect(452, "4.3.1")
            await client.command("NOOP", 250)

    run(scenario())


def test_a_recipient_named_twice_gets_one_copy() -> None:
    async def scenario() -> None:
        twice = ("<alice@example.com>", "<bob@example.com>", "<alice@EXAMPLE.com>")
        async with Bench() as bench, bench.greeted() as client:
            await client.transaction("<a@b.example>", *twice)
            await client.data(BODY, 250)
            assert [str(r.address) for r in bench.intake.mails[0].recipients] == ["alice@example.com", "bob@example.com"]
        async with Bench("lmtp", smtp__max_recipients=4) as bench, bench.greeted(hello="LHLO mta.example") as client:
            bench.intake.refuse = {"bob@example.com": Refusal(550, "5.7.1", "spam")}
            await client.transaction("<a@b.example>", *twice, twice[1])
            await client.command("RCPT TO:<alice@example.com>", 452)
            await client.data(BODY, 250)
            for code in (550, 250, 550):
                await client.expect(code)
            await client.command("NOOP", 250)

    run(scenario())


def test_eight_bit_text_is_called_so() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            for body, body_type in ((BODY, "7BIT"), ("Subject: x\r\n\r\nGrüße\r\n".encode(), "8BITMIME")):
                await client.transaction()
                await client.data(body, 250)
                assert bench.intake.mails[-1].body_type == body_type

    run(scenario())


def test_chunks_of_one_byte_do_not_hold_a_transaction_for_ever() -> None:
    async def scenario() -> None:
        async with Bench(smtp__transaction_timeout=0.2) as bench, bench.greeted() as client:
            await client.transaction()
            for _ in range(200):
                client.send(b"BDAT 1\r\nx")
                reply = await client.reply()
                if reply.code != 250:
                    break
                await asyncio.sleep(0.01)
                bench.connections[0].set_deadline(60)
            assert (reply.code, reply.status) == (421, "4.4.2")
            assert await client.is_closed()
            assert not bench.intake.open_writers

    run(scenario())


def test_messages_per_hour() -> None:
    async def scenario() -> None:
        async with Bench(smtp__rate_limit__max_messages_per_hour=2) as bench:
            async with bench.greeted() as client:
                await client.command("MAIL FROM:<a@b.example>", 250)  # no body: not counted
                await client.command("RSET", 250)
                for _ in range(2):
                    await client.transaction()
                    await client.data(BODY, 250)
                await client.command("MAIL FROM:<a@b.example>", 450, "4.7.1")
            async with bench.greeted() as client:
                await client.command("MAIL FROM:<a@b.example>", 450, "4.7.1")
            async with bench.greeted(STRANGER) as client:
                await client.command("MAIL FROM:<a@b.example>", 250)
        # Two transactions at once for the last message: one gets it.
        async with (
            Bench(smtp__rate_limit__max_messages_per_hour=1) as bench,
            bench.greeted() as one,
            bench.greeted() as other,
        ):
            await one.transaction()
            await other.transaction()
            await one.data(BODY, 250)
            await other.command("DATA", 450, "4.7.1")
        async with Bench("submission", submission__max_messages_per_hour=1) as bench:
            for source, code in (("127.0.0.1", 250), ("127.0.0.1", 450)):
                async with bench.greeted(source) as client:
                    await client.command(GOOD, 235)
                    await client.command("MAIL FROM:<alice@example.com>", code)
                    if code == 250:
                        await client.command("RCPT TO:<bob@example.com>", 250)
                        await client.data(BODY, 250)
            async with bench.greeted() as client:
                await client.command(plain("bob@example.com", "s3cret-bob"), 235)
                await client.command("MAIL FROM:<bob@example.com>", 250)

    run(scenario())


def test_draining() -> None:
    async def scenario() -> None:
        async with Bench() as bench:
            async with bench.greeted() as idle, bench.greeted() as busy, bench.greeted() as sending:
                await busy.transaction()
                await sending.transaction()
                await sending.command("DATA", 354)
                for connection in bench.connections:
                    connection.drain()
                await idle.expect(421, "4.3.2")
                assert await idle.is_closed()
                sending.send(BODY + b".\r\n")
                await sending.expect(250)
                await sending.expect(421, "4.3.2")
                assert await sending.is_closed()
                await busy.data(BODY, 250)
                await busy.expect(421, "4.3.2")
                assert await busy.is_closed()
                assert len(bench.intake.mails) == 2
            assert len(bench.logged("server is shutting down")) >= 3

    run(scenario())


def test_pipelined_mail_while_draining_is_refused() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            await client.transaction()
            await client.command("DATA", 354)
            bench.connections[0].drain()
            client.send(BODY + b".\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<alice@example.com>\r\n")
            await client.expect(250)
            await client.expect(421, "4.3.2")
            assert await client.is_closed()

    run(scenario())


def test_reload_reaches_open_sessions_at_their_next_transaction() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            await client.transaction()
            bench.service.apply(make_config(smtp__max_message_size=100, security__relay_networks=networks()))
            await client.command("RCPT TO:<x@far.example>", 250)  # as it began
            await client.command("RSET", 250)
            await client.command("MAIL FROM:<a@b.example> SIZE=101", 552, "5.3.4")
            await client.command("MAIL FROM:<a@b.example>", 250)
            await client.command("RCPT TO:<x@far.example>", 554)

    run(scenario())


def test_login_is_required_on_an_mx_when_configured() -> None:
    async def scenario() -> None:
        async with Bench(smtp__require_auth=True) as bench, bench.greeted(STRANGER) as client:
            await client.command("MAIL FROM:<alice@example.com>", 530, "5.7.0")
            await client.command(GOOD, 538)
            await client.start_tls()
            reply = await client.command("EHLO client.example", 250)
            assert any(line.startswith("AUTH ") for line in reply.lines)
            await client.command(GOOD, 235)
            reply = await client.command("EHLO client.example", 250)
            assert not any(line.startswith("AUTH ") for line in reply.lines)
            await client.transaction("<alice@example.com>", "<x@far.example>")

    run(scenario())


def test_starttls_is_offered_only_where_it_works() -> None:
    async def scenario() -> None:
        for bench_of in (
            lambda: Bench(tls=False),
            lambda: Bench(smtp__enable_starttls=False),
            lambda: Bench("submission", tls=False),
        ):
            async with bench_of() as bench, bench.greeted() as client:
                assert "STARTTLS" not in (await client.command("EHLO client.example", 250)).lines
                assert (await client.command_any("STARTTLS")).code in (454, 502)
                await client.command("NOOP", 250)

    run(scenario())


def test_message_id_and_date_of_submitted_mail() -> None:
    async def scenario() -> None:
        async with Bench("submission") as bench, bench.greeted() as client:
            await client.command(GOOD, 235)
            await client.transaction("<alice@example.com>")
            await client.data(BODY, 250)
            await client.transaction("<alice@example.com>")
            await client.data(b"DATE: x\r\nmessage-id : <a@b>\r\n" + BODY, 250)
            bare, complete = bench.intake.mails
            names = [line.split(b":")[0] for line in bare.prepended]
            assert names == [b"Message-ID", b"Date"]
            assert bare.prepended[0].endswith(b"@mx.example.com>\r\n")
            assert bare.prepended[1].endswith(b" +0000\r\n")
            assert not complete.prepended
            assert bench.bodies[0] == BODY
        async with Bench() as bench, bench.greeted() as client:
            await client.transaction()
            await client.data(BODY, 250)
            assert not bench.intake.mails[0].prepended

    run(scenario())


def test_client_that_leaves_in_the_middle() -> None:
    async def scenario() -> None:
        async with Bench() as bench:
            for cut in ("MAIL FROM:<a@b.ex", "DATA", "BDAT 100\r\nx", ""):
                async with bench.greeted() as client:
                    await client.transaction()
                    if cut == "DATA":
                        await client.command("DATA", 354)
                        client.send(BODY)
                    else:
                        client.send(cut)
                    await asyncio.sleep(0.01)
                    client.writer.transport.abort()
                await asyncio.sleep(0.02)
            assert not bench.intake.mails
            assert not bench.intake.open_writers
            assert len(bench.logged("connection closed")) == 4

    run(scenario())


def test_client_that_leaves_before_the_reply_still_has_its_mail() -> None:
    async def scenario() -> None:
        async with Bench() as bench:
            bench.intake.delay_seconds = 0.1
            async with bench.greeted() as client:
                await client.transaction()
                await client.command("DATA", 354)
                client.send(BODY + b".\r\n")
                await asyncio.sleep(0.02)
                client.writer.transport.abort()
            await asyncio.sleep(0.15)
            assert bench.bodies == [BODY]

    run(scenario())


def test_what_happens_while_a_message_is_committed() -> None:
    async def scenario() -> None:
        async with Bench(level="info") as bench:
            bench.intake.delay_seconds = 0.05
            async with bench.greeted() as client:  # the next mail comes before the reply
                await client.transaction()
                await client.command("DATA", 354)
                client.send(BODY + b".\r\n")
                await asyncio.sleep(0.01)
                client.send("MAIL FROM:<a@b.example>\r\nRCPT TO:<alice@example.com>\r\nDATA\r\n")
                for code in (250, 250, 250, 354):
                    await client.expect(code)
                client.send(BODY + b".\r\nQUIT\r\n")
                await client.expect(250)
                await client.expect(221)
            async with bench.greeted() as client:  # all is said, but not all was heard
                await client.transaction()
                await client.command("DATA", 354)
                client.send(BODY + b".\r\n")
                client.writer.write_eof()
                await client.expect(250)
                assert await client.is_closed()
            async with bench.greeted() as client:  # the server stops
                await client.transaction()
                await client.command("DATA", 354)
                client.send(BODY + b".\r\n")
                await asyncio.sleep(0.01)
                bench.connections[-1].drain()
                await client.expect(250)
                await client.expect(421, "4.3.2")
            assert len(bench.intake.mails) == 4

    run(scenario())


def test_a_session_that_is_cut_while_a_message_is_committed() -> None:
    async def scenario() -> None:
        async with Bench(level="info") as bench:
            bench.intake.delay_seconds = 0.05
            async with bench.greeted() as client:
                await client.transaction()
                await client.command("DATA", 354)
                client.send(BODY + b".\r\n")
                await asyncio.sleep(0.01)
                for task in tuple(bench._tasks):
                    task.cancel()
                assert await client.is_closed()
            await asyncio.sleep(0.06)
            assert bench.bodies == [BODY]

    run(scenario())


def test_a_store_that_fails_at_the_commit() -> None:
    async def scenario() -> None:
        async with Bench(level="info") as bench, bench.greeted() as client:
            for error, code, status in (
                (StoreFull("no space left"), 452, "4.3.1"),
                (StoreError("storage failure"), 451, "4.3.0"),
                (LookupError("a defect"), 451, "4.3.0"),
            ):
                bench.intake.error = error
                await client.transaction()
                await client.data(BODY, code)
                assert status in bench.logged("message refused")[-1]
            bench.intake.error = None
            await client.transaction()
            await client.data(BODY, 250)

    run(scenario())


def test_large_bodies_are_streamed() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            await client.transaction()
            line = b"x" * 76 + b"\r\n"
            await client.data(BODY + line * 50_000, 250)
            assert bench.bodies[0] == BODY + line * 50_000
            assert bench.intake.largest_write <= 512 * 1024

    run(scenario())


def test_silence_in_an_exchange_ends_in_421() -> None:
    async def scenario() -> None:
        async with Bench("submission", smtp__command_timeout=0.2) as bench:
            async with bench.greeted() as client:
                await client.command("AUTH LOGIN", 334)
                await client.expect(421, "4.4.2")
                assert await client.is_closed()
            async with bench.greeted() as client:
                await client.command("AUTH LOGIN", 334)
                bench.connections[-1].drain()
                await client.expect(421, "4.3.2")
            async with bench.greeted() as client:
                await client.command("AUTH LOGIN", 334)
                await client.close()
            await asyncio.sleep(0.01)
            assert not bench.logged("internal error")

    run(scenario())


def test_defects_are_told_as_421() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            with patch.object(bench.directory, "account_of", side_effect=RuntimeError("a defect")):
                bench.expect_defect = True
                await client.command("MAIL FROM:<a@b.example>", 250)
                await client.command("RCPT TO:<alice@example.com>", 421, "4.3.0")
                assert await client.is_closed()

    run(scenario())


def test_numbers() -> None:
    async def scenario() -> None:
        async with Bench() as bench:
            async with bench.greeted() as client:
                await client.start_tls()
                await client.command("EHLO client.example", 250)
                await client.command("XYZZY", 500)
                await client.transaction("<a@b.example>", "<alice@example.com>", "<bob@example.com>")
                await client.command("RCPT TO:<nobody@example.com>", 550)
                await client.data(BODY, 250)
                await client.command("QUIT", 221)
            metrics = bench.metrics
            await asyncio.sleep(0.01)
            assert metrics.count(SMTP_CONNECTIONS) == 1
            assert [metrics.count(SMTP_COMMANDS[verb]) for verb in ("EHLO", "MAIL", "RCPT", "DATA", "QUIT")] == [2, 1, 3, 1, 1]
            assert [metrics.count(SMTP_REPLIES[f"{n}xx"]) for n in (2, 3, 4, 5)] == [9, 1, 0, 2]
            assert metrics.count(SMTP_ERRORS) == 2
            assert metrics.count(SMTP_MESSAGES["accepted"]) == metrics.count(SMTP_MESSAGES_RECEIVED) == 1
            assert [metrics.count(SMTP_RECIPIENTS[outcome]) for outcome in ("accepted", "rejected")] == [2, 1]
            assert metrics.count(TLS_SESSIONS["starttls"]) == 1
            for histogram in (SMTP_MESSAGE_BYTES, MESSAGE_SECONDS, SMTP_SESSION_SECONDS):
                assert sum(metrics.sample(histogram)[0]) == 1

    run(scenario())


def test_lines() -> None:
    """At info one for each connection, and one for a mail that the intake never sees; the intake writes one for each other."""

    async def scenario() -> None:
        async with Bench(level="info") as bench:
            async with bench.greeted() as client:
                await client.transaction()
                await client.data(BODY, 250)
                await client.transaction()
                await client.data(BODY + b"\n", 550)
                await client.command("QUIT", 221)
            await asyncio.sleep(0.01)
            refused, closed = (json.loads(line) for line in bench.lines)
            assert refused["event"] == "message refused"
            assert (refused["sender"], refused["recipients"]) == ("a@client.example", 1)
            assert refused["reply"].startswith("550 5.6.0 ")
            assert closed["event"] == "connection closed"
            assert (closed["reason"], closed["helo"], closed["messages"]) == ("quit", "client.example", 1)
            assert closed["bytes_in"] > 0
            for record in (refused, closed):
                assert (record["client"], record["protocol"], record["session_id"]) == ("127.0.0.1", "smtp", "session-1")

    run(scenario())
