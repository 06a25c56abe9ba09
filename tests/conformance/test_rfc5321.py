"""RFC 5321, the server's side, on the wire."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime

import pytest

from tests.sessions.harness import HOSTNAME, STRANGER, Bench, run

BODY = b"Subject: x\r\n\r\nhello\r\n"
MAIL = "MAIL FROM:<a@client.example>"
RCPT = "RCPT TO:<alice@example.com>"


@pytest.mark.rfc("5321", "3.1")
def test_greeting_names_the_host() -> None:
    async def scenario() -> None:
        async with Bench() as bench:
            client = await bench.connect()
            reply = await client.expect(220)
            assert reply.lines[0].split()[0] == HOSTNAME

    run(scenario())


@pytest.mark.rfc("5321", "3.3")
def test_a_failed_recipient_does_not_end_the_transaction() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            await client.command(MAIL, 250)
            await client.command("RCPT TO:<nobody@example.com>", 550)
            await client.command(RCPT, 250)
            await client.data(BODY, 250)
            assert [str(r.address) for r in bench.intake.mails[0].recipients] == ["alice@example.com"]

    run(scenario())


@pytest.mark.rfc("5321", "4.1.1.1")
def test_ehlo_line_format() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            raw = (await client.command("EHLO client.example", 250)).raw.split(b"\r\n")[:-1]
            assert all(re.fullmatch(rb"250-[A-Za-z0-9][A-Za-z0-9-]*( [\x21-\x7e]+)*", line) for line in raw[1:-1])
            assert raw[0] == b"250-" + HOSTNAME.encode()
            assert raw[-1].startswith(b"250 ")

    run(scenario())


@pytest.mark.rfc("5321", "4.1.1.2")
@pytest.mark.rfc("5321", "4.5.5")
def test_null_reverse_path() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted(STRANGER) as client:
            await client.transaction("<>")
            await client.data(BODY, 250)
            assert bench.intake.mails[0].sender is None

    run(scenario())


@pytest.mark.rfc("5321", "4.1.1.5")
@pytest.mark.rfc("5321", "4.1.4")
def test_rset_and_greetings_clear_the_transaction() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            for line in ("RSET", "EHLO other.example", "HELO other.example"):
                await client.transaction()
                await client.command(line, 250)
                await client.command("DATA", 503)
                await client.command(MAIL, 250)
                await client.command("RSET", 250)

    run(scenario())


@pytest.mark.rfc("5321", "4.1.1.9")
def test_noop_and_help_leave_the_transaction_alone() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            await client.command(MAIL, 250)
            await client.command("NOOP ignored", 250)
            await client.command("HELP", 214)
            await client.command("VRFY alice", 252)
            await client.command(RCPT, 250)
            await client.command("NOOP", 250)
            await client.data(BODY, 250)

    run(scenario())


@pytest.mark.rfc("5321", "4.1.1.10")
def test_quit_closes_and_forgets() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            await client.transaction()
            await client.command("QUIT", 221)
            assert await client.is_closed()
            assert not bench.intake.mails

    run(scenario())


@pytest.mark.rfc("5321", "2.4")
def test_verbs_and_domains_in_any_case_local_parts_kept() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted(hello="eHlO Client.Example") as client:
            await client.command("mAiL fRoM:<Smith@Client.EXAMPLE>", 250)
            await client.command("rCpT tO:<ALICE@EXAMPLE.com>", 250)
            await client.data(BODY, 250)
            mail = bench.intake.mails[0]
            assert str(mail.sender) == "Smith@client.example"
            assert str(mail.recipients[0].address) == "ALICE@example.com"
            assert mail.recipients[0].account == "alice@example.com"

    run(scenario())


@pytest.mark.rfc("5321", "4.4")
def test_received_field() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted(STRANGER) as client:
            await client.transaction()
            reply = await client.data(BODY, 250)
            data = bench.intake.mails[0].content.read()
            header = re.sub(rb"\r\n[ \t]+", b" ", data.split(b"\r\nSubject:")[0]).decode()
            match = re.fullmatch(
                r"Received: from client\.example \(\[127\.0\.0\.66\]\) by mx\.example\.com with ESMTP id (\w+)"
                r" for <alice@example\.com>; (.*)",
                header,
            )
            assert match, header
            assert match[1] in reply.text
            assert abs(parsedate_to_datetime(match[2]).timestamp() - time.time()) < 10
            assert all(len(line) <= 78 for line in data.split(b"\r\nSubject:")[0].split(b"\r\n"))
            # What follows is the message, byte for byte; Return-Path is for final delivery.
            assert data.endswith(BODY)
            assert b"Return-Path" not in data

    run(scenario())


@pytest.mark.rfc("5321", "7.2")
def test_received_does_not_show_recipients_to_each_other() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            await client.transaction("<a@client.example>", "<alice@example.com>", "<bob@example.com>")
            await client.data(BODY, 250)
            assert b" for <" not in bench.intake.mails[0].content.read()

    run(scenario())


@pytest.mark.rfc("5321", "4.5.1")
def test_required_commands_and_postmaster() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted(STRANGER, "HELO client.example") as client:
            for recipient in ("<postmaster>", "<POSTMASTER>", "<postmaster@example.com>"):
                await client.transaction("<a@client.example>", recipient)
                await client.data(BODY, 250)
            assert len(bench.intake.mails) == 3
            assert {r.account for mail in bench.intake.mails for r in mail.recipients} == {"postmaster@example.com"}

    run(scenario())


@pytest.mark.rfc("5321", "4.5.2")
def test_transparency() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            await client.transaction()
            await client.command("DATA", 354)
            client.send(b"Subject: dots\r\n\r\n..\r\n...\r\n..x\r\nx.\r\n.. \r\n.\r\n")
            await client.expect(250)
            assert bench.bodies == [b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\nx.\r\n. \r\n"]

    run(scenario())


@pytest.mark.rfc("5321", "4.5.3.1.4")
@pytest.mark.rfc("5321", "4.5.3.1.6")
def test_sizes_that_must_be_taken() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            local, domain = "x" * 64, ".".join(["y" * 61] * 4)
            await client.command(f"MAIL FROM:<{local}@{domain}>", 250)
            for number in range(100):  # §4.5.3.1.8
                await client.command(f"RCPT TO:<alice+{number}@example.com>", 250)
            line = b"z" * 998 + b"\r\n"
            await client.data(b"Subject: x\r\n\r\n" + line, 250)
            assert bench.bodies[0].endswith(line)
            assert len(bench.intake.mails[0].recipients) == 100

    run(scenario())


@pytest.mark.rfc("5321", "4.2.4")
def test_unknown_commands_and_known_ones_without_a_use() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            await client.command("XYZZY", 500)
            for line in ("EXPN list", "TURN", "ETRN example.com"):
                await client.command(line, 502)
            await client.command("", 500)
            await client.command("NOOP", 250)

    run(scenario())


@pytest.mark.rfc("5321", "6.1")
def test_acceptance_comes_after_the_intake() -> None:
    async def scenario() -> None:
        async with Bench() as bench, bench.greeted() as client:
            bench.intake.delay_seconds = 0.1
            await client.transaction()
            await client.command("DATA", 354)
            client.send(BODY + b".\r\n")
            assert await client.is_silent(0.05)
            await client.expect(250)
            assert bench.bodies == [BODY]

    run(scenario())


@pytest.mark.rfc("5321", "4.5.3.2.7")
@pytest.mark.rfc("5321", "3.8")
def test_time_out_is_told() -> None:
    async def scenario() -> None:
        async with Bench(smtp__command_timeout=0.1) as bench, bench.greeted() as client:
            await client.expect(421, "4.4.2")
            assert await client.is_closed()

    run(scenario())
