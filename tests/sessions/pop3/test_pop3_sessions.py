"""Whole sessions, seen from the client."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from rusmes._core.counters import SharedCounters
from rusmes.errors import AuthUnavailable, StoreCorrupt, StoreError
from rusmes.metrics import AUTH_ATTEMPTS, POP3_COMMANDS, POP3_ERRORS, POP3_MESSAGES, TLS_SESSIONS
from rusmes.sasl.client import LoginClient, PlainClient, ScramClient
from rusmes.storage.lmdb.mail_store import LmdbMailStore
from rusmes.storage.memory import MemoryMailStore
from rusmes.tls.exporter import exported_binding
from tests.sessions.pop3.house import PASSWORD, STRANGER, House, changed, run, scenario

ONE = b"Subject: one\r\n\r\nfirst\r\n"
TWO = b"Subject: two\r\nX: y\r\n\r\n.dots\r\n..more\r\n.\r\nlast\r\n"
BIG = b"Subject: big\r\n\r\n" + b".a line that begins with a dot\r\n" * 6_000


@scenario()
async def test_the_life_of_a_maildrop(house: House) -> None:
    await house.deliver("alice", ONE, TWO)
    client = await house.login()
    assert await client.command("STAT") == f"+OK 2 {len(ONE) + len(TWO)}"
    assert await client.listing("LIST") == [f"1 {len(ONE)}", f"2 {len(TWO)}"]
    assert await client.command("LIST 2") == f"+OK 2 {len(TWO)}"
    assert await client.command("RETR 2") == f"+OK {len(TWO)} octets"
    assert client.unstuffed(await client.stuffed_rows()) == TWO
    assert await client.message("TOP 2 1") == b"Subject: two\r\nX: y\r\n\r\n.dots\r\n"
    assert await client.message("TOP 2 0") == b"Subject: two\r\nX: y\r\n\r\n"
    assert await client.message("TOP 2 99") == TWO
    await client.expect("NOOP", "+OK")
    await client.expect("DELE 1", "+OK")
    for text in ("RETR 1", "TOP 1 0", "LIST 1", "UIDL 1", "DELE 1"):
        await client.expect(text, "-ERR no such message")
    assert await client.listing("LIST") == [f"2 {len(TWO)}"]
    assert await client.command("STAT") == f"+OK 1 {len(TWO)}"
    await client.expect("RSET", "+OK")
    assert await client.command("STAT") == f"+OK 2 {len(ONE) + len(TWO)}"
    await client.expect("DELE 2", "+OK")
    await client.expect("QUIT", "+OK 1 messages removed")
    assert await client.is_closed()
    again = await house.login()
    assert await again.listing("LIST") == [f"1 {len(ONE)}"]
    assert house.metrics.count(POP3_MESSAGES["retrieved"]) == 1
    assert house.metrics.count(POP3_MESSAGES["deleted"]) == 1
    assert house.metrics.count(POP3_COMMANDS["LIST"]) == 5
    assert house.metrics.count(POP3_ERRORS) == 5


@scenario()
async def test_unique_ids_stay(house: House) -> None:
    await house.deliver("alice", ONE, TWO)
    client = await house.login()
    first, second = [row.split()[1] for row in await client.listing("UIDL")]
    assert first != second
    assert await client.command("UIDL 2") == f"+OK 2 {second}"
    await client.command("DELE 1")
    await client.command("QUIT")
    await house.deliver("alice", ONE)
    again = await house.login()
    third = (await again.listing("UIDL"))[1].split()[1]
    assert await again.listing("UIDL") == [f"1 {second}", f"2 {third}"]
    assert third not in (first, second)


@scenario()
async def test_an_account_without_mail_is_an_empty_maildrop(house: House) -> None:
    client = await house.login("bob")
    assert await client.command("STAT") == "+OK 0 0"
    assert await client.listing("LIST") == []
    assert await client.listing("UIDL") == []
    await client.expect("RETR 1", "-ERR")
    await client.expect("QUIT", "+OK")
    assert await house.store.account("bob@example.com") is None


@scenario()
async def test_mail_that_comes_later_is_in_the_next_session(house: House) -> None:
    await house.deliver("alice", ONE)
    client = await house.login()
    await house.deliver("alice", TWO)
    assert await client.command("STAT") == f"+OK 1 {len(ONE)}"
    await client.expect("RETR 2", "-ERR no such message")
    await client.command("DELE 1")
    await client.command("QUIT")
    again = await house.login()
    assert await again.listing("LIST") == [f"1 {len(TWO)}"]


@scenario()
async def test_no_quit_no_deletion(house: House) -> None:
    await house.deliver("alice", ONE)
    client = await house.login()
    await client.expect("DELE 1", "+OK")
    await client.close()
    again = await house.login_when_free()
    assert await again.command("STAT") == f"+OK 1 {len(ONE)}"


@scenario()
async def test_a_maildrop_is_for_one_session_at_a_time(house: House) -> None:
    first = await house.login()
    second = await house.connect()
    await second.command("USER alice")
    await second.expect(f"PASS {PASSWORD}", "-ERR [IN-USE]")
    await second.command("USER bob")
    await second.expect(f"PASS {PASSWORD}", "+OK")
    await first.expect("QUIT", "+OK")
    third = await house.connect()
    await third.command("USER alice")
    await third.expect(f"PASS {PASSWORD}", "+OK")


def test_a_maildrop_is_locked_over_all_workers() -> None:
    async def whole() -> None:
        limits = SharedCounters(2, 4096)
        store = MemoryMailStore(inline_limit=65536)
        async with House(limits=limits, store=store) as one, House(limits=limits, store=store) as two:
            await one.login()
            client = await two.connect()
            await client.command("USER alice")
            await client.expect(f"PASS {PASSWORD}", "-ERR [IN-USE]")

    run(whole())


@scenario()
async def test_messages_without_a_last_line_end_get_one(house: House) -> None:
    for message in (b"Subject: x\r\n\r\nno end", b"", b"Subject: y\r\n\r\nbare\n", b"\r\n", b"x"):
        await house.deliver("alice", message)
    client = await house.login()
    for number, expected in enumerate(
        (b"Subject: x\r\n\r\nno end\r\n", b"", b"Subject: y\r\n\r\nbare\n\r\n", b"\r\n", b"x\r\n"), start=1
    ):
        answer = await client.command(f"RETR {number}")
        got = client.unstuffed(await client.stuffed_rows())
        assert got == expected
        assert answer == f"+OK {len(got)} octets"


@scenario()
async def test_large_messages_are_streamed(house: House) -> None:
    await house.deliver("alice", BIG, ONE, BIG[:-2])
    client = await house.login()
    assert await client.command("RETR 1") == f"+OK {len(BIG)} octets"
    assert client.unstuffed(await client.stuffed_rows()) == BIG
    assert await client.message("RETR 2") == ONE
    assert await client.command("RETR 3") == f"+OK {len(BIG)} octets"
    assert client.unstuffed(await client.stuffed_rows()) == BIG
    assert await client.message("TOP 1 5") == BIG[: 16 + 5 * 32]


@scenario()
async def test_a_client_that_does_not_read_costs_little(house: House) -> None:
    await house.deliver("alice", BIG * 8, BIG * 8, *[b"Subject: s\r\n\r\n" + b"x" * 60_000 + b"\r\n"] * 30)
    client = await house.login()
    connection = house.connections[0]
    client.send(b"".join(b"RETR %d\r\n" % (1 + n % 32) for n in range(600)))
    await asyncio.sleep(0.3)
    # Kernel buffers of both ends take some; the rest is not even made.
    assert connection.bytes_out < 16 * 1024 * 1024
    assert connection._transport.get_write_buffer_size() < 512 * 1024


@scenario()
async def test_pipelined_commands_are_answered_in_order_in_one_write(house: House) -> None:
    await house.deliver("alice", ONE, TWO)
    client = await house.connect()
    client.send(f"USER alice\r\nPASS {PASSWORD}\r\nSTAT\r\nRETR 1\r\nDELE 1\r\nLIST\r\nQUIT\r\n")
    async with asyncio.timeout(5):
        data = await client.reader.read()
    assert data.decode() == (
        "+OK send PASS\r\n"
        f"+OK 2 messages, {len(ONE) + len(TWO)} octets\r\n"
        f"+OK 2 {len(ONE) + len(TWO)}\r\n"
        f"+OK {len(ONE)} octets\r\n{ONE.decode()}.\r\n"
        "+OK marked for deletion\r\n"
        f"+OK 1 messages ({len(TWO)} octets)\r\n2 {len(TWO)}\r\n.\r\n"
        "+OK 1 messages removed, bye\r\n"
    )


@scenario()
async def test_messages_in_order_are_made_ready_ahead_and_are_the_same(house: House) -> None:
    messages = [b"Subject: %d\r\n\r\n.%d\r\n" % (n, n) for n in range(12)]
    await house.deliver("alice", *messages)
    client = await house.login()
    for number, message in enumerate(messages, start=1):
        assert await client.message(f"RETR {number}") == message
        if number == 5:
            await client.expect("DELE 6", "+OK")
            await client.expect("RETR 6", "-ERR no such message")
            await client.expect("RSET", "+OK")
        if number == 8:
            assert await client.message("RETR 2") == messages[1]
    assert house.metrics.count(POP3_MESSAGES["retrieved"]) == len(messages) + 1


# Login


@pytest.mark.parametrize("make", [PlainClient, LoginClient, ScramClient])
@pytest.mark.parametrize("initial", [True, False])
@pytest.mark.rfc("5034", "4")
def test_sasl(make: Any, initial: bool) -> None:
    async def whole() -> None:
        async with House() as house:
            await house.deliver("alice", ONE)
            for password, good in ((PASSWORD, True), ("wrong", False)):
                client = await house.connect()
                sasl = make("alice@example.com", password)
                first = sasl.initial() if initial else None
                line = f"AUTH {sasl.name.lower()}"
                if first is not None:
                    line += " " + base64.b64encode(first).decode()
                answer = await client.command(line)
                while answer.startswith("+ ") or answer == "+":
                    response = sasl.respond(base64.b64decode(answer[2:]))
                    answer = await client.command(base64.b64encode(response))
                if good:
                    assert answer.startswith("+OK 1 messages")
                    sasl.finished()
                    await client.expect("QUIT", "+OK")
                else:
                    assert answer.startswith("-ERR [AUTH]")

    run(whole())


@scenario()
async def test_sasl_goes_wrong(house: House) -> None:
    client = await house.connect()
    await client.expect("AUTH PLAIN", "+ ")
    await client.expect("*", "-ERR cancelled")
    await client.expect("AUTH PLAIN !!!", "-ERR malformed base64")
    await client.expect("AUTH CRAM-MD5", "-ERR this mechanism is not offered")
    await client.expect("AUTH PLAIN", "+ ")
    await client.expect("A" * 13000, "-ERR")
    assert [row.split()[0] for row in await client.listing("AUTH")][-2:] == ["PLAIN", "LOGIN"]
    await client.expect("CAPA", "+OK")


@scenario()
async def test_wrong_logins_end_the_session(house: House) -> None:
    client = await house.connect()
    for _ in range(2):
        await client.expect("USER alice", "+OK")
        await client.expect("PASS wrong", "-ERR [AUTH] authentication failed")
    await client.expect("USER nobody", "+OK")
    await client.expect("PASS wrong", "-ERR [AUTH] authentication failed")
    assert await client.is_closed()
    assert house.naps == [1, 2, 4]
    assert house.metrics.count(AUTH_ATTEMPTS["failure"]) == 3


@scenario()
async def test_a_blocked_address_gets_no_greeting(house: House) -> None:
    for _ in range(4):
        client = await house.connect()
        for _ in range(3):
            await client.command("USER alice")
            if not (await client.command("PASS wrong")).startswith("-ERR [AUTH]"):
                break
    refused = await house.connect(greeting="-ERR [SYS/TEMP] too many failed logins")
    assert await refused.is_closed()
    house.clock.advance(901)
    await house.login()


@scenario()
async def test_unavailable_backends_are_not_the_clients_fault(house: House) -> None:
    house.backend.error = AuthUnavailable("later")
    client = await house.connect()
    for _ in range(5):
        await client.command("USER alice")
        await client.expect(f"PASS {PASSWORD}", "-ERR [SYS/TEMP]")
    house.backend.error = None
    await client.command("USER alice")
    await client.expect(f"PASS {PASSWORD}", "+OK")


@scenario()
async def test_pop3_can_be_switched_off_for_an_account(house: House) -> None:
    alice = house.backend.identities["alice@example.com"]
    house.backend.identities["alice@example.com"] = changed(alice, disabled_capabilities=frozenset({"pop3"}))
    client = await house.connect()
    await client.command("USER alice")
    await client.expect(f"PASS {PASSWORD}", "-ERR [SYS/PERM]")


@scenario()
async def test_user_and_pass_come_in_order(house: House) -> None:
    client = await house.connect()
    await client.expect(f"PASS {PASSWORD}", "-ERR send USER first")
    await client.expect("USER alice", "+OK")
    await client.expect("PASS", "-ERR malformed")
    await client.expect(b"PASS \xff\xfe", "-ERR not UTF-8")
    await client.expect(f"PASS {PASSWORD}", "-ERR send USER first")
    assert house.metrics.count(AUTH_ATTEMPTS["failure"]) == 0


# TLS


@scenario()
async def test_no_password_in_the_clear_from_elsewhere(house: House) -> None:
    client = await house.connect(STRANGER)
    names = await client.listing("CAPA")
    assert "STLS" in names
    assert not any(name.startswith(("SASL", "USER")) for name in names)
    for text in ("USER alice", f"PASS {PASSWORD}", "AUTH PLAIN", "AUTH PLAIN AGFsaWNlAHNlY3JldA=="):
        await client.expect(text, "-ERR TLS is required")
    await client.start_tls()
    names = await client.listing("CAPA")
    assert "STLS" not in names
    assert "USER" in names
    await client.expect("STLS", "-ERR TLS is not available here")
    await client.expect("USER alice", "+OK")
    await client.expect(f"PASS {PASSWORD}", "+OK")
    assert "STLS" not in await client.listing("CAPA")


@scenario()
async def test_what_is_announced_in_both_states_does_not_differ(house: House) -> None:
    """RFC 2449 §6, RFC 2595 §4, RFC 5034 §3."""
    client = await house.connect()
    before = await client.listing("CAPA")
    assert {"USER", "STLS"} < set(before)
    await client.expect("USER alice", "+OK")
    await client.expect(f"PASS {PASSWORD}", "+OK")
    assert await client.listing("CAPA") == before


@scenario()
async def test_stls_forgets_what_was_said(house: House) -> None:
    client = await house.connect()
    await client.expect("USER alice", "+OK")
    await client.start_tls()
    await client.expect(f"PASS {PASSWORD}", "-ERR send USER first")
    assert house.metrics.count(TLS_SESSIONS["starttls"]) == 1


@scenario()
async def test_debug_shows_commands_and_replies_and_no_secret(house: House) -> None:
    client = await house.connect()
    await client.expect("USER alice", "+OK")
    await client.expect(f"PASS {PASSWORD}", "+OK")
    await client.expect("DELE 99", "-ERR")
    log = "".join(house.lines)
    assert '"verb":"USER","argument":"alice"' in log
    assert '"verb":"PASS"}' in log
    assert '"verb":"DELE","number":99}' in log
    assert '"event":"reply"' in log
    assert '"ok":false' in log


@pytest.mark.parametrize("injected", ["NOOP\r\n", "USER mallory\r\nPASS x\r\n", "U"])
def test_nothing_may_follow_stls_in_the_clear(injected: str) -> None:
    """T1, RFC 2595 §4."""

    async def whole() -> None:
        async with House() as house:
            client = await house.connect()
            client.send("STLS\r\n" + injected)
            assert (await client.line()).startswith("-ERR nothing may follow STLS")
            assert await client.is_closed()

    run(whole())


@scenario(implicit_tls=True)
async def test_implicit_tls(house: House) -> None:
    await house.deliver("alice", BIG)
    client = await house.login(source=STRANGER)
    assert "STLS" not in await client.listing("CAPA")
    assert await client.message("RETR 1") == BIG


@scenario(tls=False)
async def test_without_a_certificate_stls_is_not_offered(house: House) -> None:
    client = await house.connect()
    assert "STLS" not in await client.listing("CAPA")
    await client.expect("STLS", "-ERR")


@pytest.mark.rfc("9266", "2")
@scenario()
async def test_scram_plus_is_bound_to_the_channel(house: House) -> None:
    for data, start in ((None, "+OK"), (b"x" * 32, "-ERR [AUTH]")):
        client = await house.connect(STRANGER)
        await client.start_tls()
        [sasl] = [name for name in await client.listing("CAPA") if name.startswith("SASL ")]
        assert sasl.split()[1] == "SCRAM-SHA-256-PLUS"
        binding = data or exported_binding(client.writer.get_extra_info("ssl_object"))
        plus = ScramClient("alice", PASSWORD, binding_type="tls-exporter", binding_data=binding)
        answer = await client.command(f"AUTH {plus.name} {base64.b64encode(plus.initial() or b'').decode()}")
        while answer.startswith("+ "):
            answer = await client.command(base64.b64encode(plus.respond(base64.b64decode(answer[2:]))))
        assert answer.startswith(start)
        # A man in the middle who strikes -PLUS out of the list is noticed.
        downgraded = ScramClient("alice", PASSWORD, could_bind=True)
        other = await house.connect(STRANGER)
        await other.start_tls()
        await other.expect(f"AUTH SCRAM-SHA-256 {base64.b64encode(downgraded.initial() or b'').decode()}", "-ERR")
        await client.close()


# Limits


@scenario(login_timeout="1s")
async def test_the_time_before_login_is_limited_in_total(house: House) -> None:
    client = await house.connect()

    async def talk() -> None:
        while True:
            client.send("CAPA\r\n")
            await asyncio.sleep(0.3)

    talking = asyncio.create_task(talk())
    async with asyncio.timeout(5):
        data = await client.reader.read()
    talking.cancel()
    assert 1 <= data.count(b"IMPLEMENTATION") <= 5
    assert any('"timeout"' in line for line in house.lines)


@scenario(timeout="1s")
async def test_an_idle_session_ends_without_update(house: House) -> None:
    await house.deliver("alice", ONE)
    client = await house.login()
    await client.expect("DELE 1", "+OK")
    assert await client.is_closed()
    again = await house.login_when_free()
    assert await again.command("STAT") == f"+OK 1 {len(ONE)}"


@scenario()
async def test_nonsense_is_limited_before_login(house: House) -> None:
    client = await house.connect()
    for _ in range(4):
        await client.expect("GET / HTTP/1.1", "-ERR unknown command")
    await client.expect("Host: x", "-ERR unknown command")
    assert await client.line() == "-ERR too many errors"
    assert await client.is_closed()


@scenario()
async def test_long_lines_are_dropped_whole(house: House) -> None:
    client = await house.connect()
    await client.expect("NOOP " + "x" * 300 + " QUIT", "-ERR line too long")
    await client.expect("CAPA" + " " * 249, "+OK")
    await client.rows()
    client.send(b"x" * 30_000)
    assert await client.line() == "-ERR too many errors"
    assert await client.is_closed()


@scenario()
async def test_a_drained_server_ends_sessions_without_update(house: House) -> None:
    await house.deliver("alice", ONE)
    client = await house.login()
    await client.expect("DELE 1", "+OK")
    house.connections[0].drain()
    assert await client.is_closed()
    again = await house.login_when_free()
    assert await again.command("STAT") == f"+OK 1 {len(ONE)}"


def test_refusals_before_any_work() -> None:
    assert House().service.refusal("per_ip") == b"-ERR [SYS/TEMP] too many connections from your address\r\n"
    assert House().service.refusal("total") == b"-ERR [SYS/TEMP] too busy, try again later\r\n"
    assert House(implicit_tls=True).service.refusal("total") == b""


# Failing stores


class Failing(MemoryMailStore):
    """Fails on command."""

    def __init__(self) -> None:
        super().__init__(inline_limit=65536)
        self.on_expunge: Exception | None = None
        self.on_open: Exception | None = None
        self.on_messages: Exception | None = None

    async def expunge(self, mailbox_id: int, uids: Any, *, only_deleted: bool = False) -> list[int]:
        if self.on_expunge is not None:
            raise self.on_expunge
        return await super().expunge(mailbox_id, uids, only_deleted=only_deleted)

    async def renderings(self, mailbox_id: int, uids: Any, *, limit_bytes: int = 0) -> Any:
        if self.on_open is not None:
            raise self.on_open
        return await super().renderings(mailbox_id, uids, limit_bytes=limit_bytes)

    async def messages(self, mailbox_id: int, *, first_uid: int = 1, last_uid: int = 0) -> Any:
        if self.on_messages is not None:
            raise self.on_messages
        return await super().messages(mailbox_id, first_uid=first_uid, last_uid=last_uid)


def test_a_failing_store_loses_nothing() -> None:
    async def whole() -> None:
        store = Failing()
        async with House(store=store) as house:
            await house.deliver("alice", ONE, TWO)
            store.on_messages = StoreError("later")
            client = await house.connect()
            await client.command("USER alice")
            await client.expect(f"PASS {PASSWORD}", "-ERR [SYS/TEMP]")
            store.on_messages = None
            await client.command("USER alice")
            await client.expect(f"PASS {PASSWORD}", "+OK")
            store.on_open = StoreError("later")
            await client.expect("RETR 1", "-ERR [SYS/TEMP]")
            store.on_open = StoreCorrupt("torn")
            await client.expect("RETR 1", "-ERR [SYS/PERM]")
            store.on_open = None
            await client.expect("DELE 1", "+OK")
            store.on_expunge = StoreError("disk full")
            await client.expect("QUIT", "-ERR [SYS/TEMP] the marked messages were not removed")
            assert await client.is_closed()
            store.on_expunge = None
            again = await house.login()
            assert await again.command("STAT") == f"+OK 2 {len(ONE) + len(TWO)}"

    run(whole())


@scenario()
async def test_a_message_that_another_session_removed(house: House) -> None:
    await house.deliver("alice", ONE, TWO)
    client = await house.login()
    account = await house.store.account("alice@example.com")
    mailbox = await house.store.mailbox(account.id, "INBOX")
    await house.store.expunge(mailbox.id, [1])
    await client.expect("RETR 1", "-ERR the message was removed")
    await client.expect("DELE 1", "+OK")
    await client.expect("DELE 2", "+OK")
    await client.expect("QUIT", "+OK")


@scenario()
async def test_log_lines_name_session_client_and_user(house: House) -> None:
    await house.deliver("alice", ONE)
    client = await house.login()
    await client.message("RETR 1")
    await client.command("QUIT")
    assert await client.is_closed()
    [login] = [line for line in house.lines if '"login"' in line]
    [logout] = [line for line in house.lines if '"logout"' in line]
    for line in (login, logout):
        assert '"session-1"' in line
        assert '"127.0.0.1"' in line
        assert '"alice@example.com"' in line
    assert '"retrieved":1' in logout


@scenario()
async def test_a_reload_reaches_new_sessions(house: House) -> None:
    house.service.apply(changed(house.config, hostname="other.example.com"))  # type: ignore[arg-type]
    client = await house.connect(greeting="+OK other.example.com")
    await client.expect("QUIT", "+OK")


@pytest.mark.rfc("6856", "2.1")
@pytest.mark.rfc("6858", "2")
@pytest.mark.parametrize("body", ["häßlich\r\n", "ö zum Schluß", "Größe\r\n" * 30_000])
def test_a_client_that_does_not_say_utf8_gets_a_surrogate(body: str, tmp_path: Path) -> None:
    head = "From: Jörg <jörg@example.org>\r\nTo: a@example.org\r\nSubject: Grüße\r\nMessage-ID: <ä@x>\r\nX-Plain:  kept\r\n\r\n"
    plain = (
        "From: =?utf-8?B?SsO2cmc=?= <invalid@internationalized-address.invalid>\r\nTo: a@example.org\r\n"
        "Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\nX-Plain:  kept\r\n\r\n"
    )
    message, ended = (head + body).encode(), body if body.endswith("\r\n") else f"{body}\r\n"
    surrogate = (plain + ended).encode()

    async def scenario() -> None:
        lmdb = LmdbMailStore(str(tmp_path), inline_limit=64 * 1024, map_size=1 << 28)
        await lmdb.open()
        for store in (None, lmdb):
            async with House(store=store) as house:
                await house.deliver("alice", ONE, message, message, message)
                client = await house.login()
                assert await client.command("LIST 2") == f"+OK 2 {len(message)}"
                for number in (2, 3, 4):  # the last ones are made ahead
                    assert await client.command(f"RETR {number}") == f"+OK {len(surrogate)} octets"
                    assert client.unstuffed(await client.stuffed_rows()) == surrogate
                assert await client.message("TOP 2 0") == plain.encode()
                assert await client.message("RETR 1") == ONE
                await client.expect("QUIT", "+OK")
                client = await house.connect()
                await client.expect("UTF8", "+OK")
                await client.expect("USER alice", "+OK")
                await client.expect(f"PASS {PASSWORD}", "+OK")
                assert await client.message("RETR 2") == (head + ended).encode()
                assert await client.message("TOP 2 0") == head.encode()
                await client.expect("QUIT", "+OK")
        await lmdb.close()

    run(scenario())
