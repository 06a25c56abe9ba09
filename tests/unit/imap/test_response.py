"""Lines as RFC 9051 §7 has them."""

from __future__ import annotations

import pytest

from rusmes.imap import response


def test_status_responses():
    assert response.ok(b"a1", "done", b"READ-WRITE") == b"a1 OK [READ-WRITE] done\r\n"
    assert response.no(b"a1", "no") == b"a1 NO no\r\n"
    assert response.bad(b"*", "what\r\nelse") == b"* BAD what??else\r\n"
    assert response.untagged_ok("hi", b"UIDNEXT 5") == b"* OK [UIDNEXT 5] hi\r\n"
    assert response.bye("") == b"* BYE .\r\n"


def test_a_code_cannot_break_the_line():
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        response.ok(b"a", "x", b"A\r\n* BYE")


def test_mailbox_data():
    assert response.list_line(b"a b", [b"\\HasNoChildren"]) == b'* LIST (\\HasNoChildren) "/" "a b"\r\n'
    assert response.list_line(b"x", verb=b"LSUB", separator=None) == b"* LSUB () NIL x\r\n"
    assert response.list_line(b"x", extended=b'"CHILDINFO" ("SUBSCRIBED")') == (
        b'* LIST () "/" x ("CHILDINFO" ("SUBSCRIBED"))\r\n'
    )
    assert response.status_line(b"INBOX", [(b"MESSAGES", 3), (b"MAILBOXID", b"(x)")]) == (
        b"* STATUS INBOX (MESSAGES 3 MAILBOXID (x))\r\n"
    )
    assert response.flags_line(["$Work"]) == b"* FLAGS (\\Seen \\Answered \\Flagged \\Deleted \\Draft $Work)\r\n"
    assert response.permanent_flags([], is_read_only=True).startswith(b"* OK [PERMANENTFLAGS ()] ")
    assert response.permanent_flags(["a"], is_read_only=False).startswith(
        b"* OK [PERMANENTFLAGS (\\Seen \\Answered \\Flagged \\Deleted \\Draft a \\*)] "
    )


def test_esearch():
    assert response.esearch_line(b"a1", [(b"MIN", 2), (b"ALL", b"2:4")], is_uid=True) == (
        b'* ESEARCH (TAG "a1") UID MIN 2 ALL 2:4\r\n'
    )
    assert response.esearch_line(b"a", [], mailbox=(b"INBOX", 7)) == (
        b'* ESEARCH (TAG "a" MAILBOX INBOX UIDVALIDITY 7)\r\n'
    )


def test_what_went():
    assert response.expunges([7, 3]) == b"* 7 EXPUNGE\r\n* 3 EXPUNGE\r\n"
    assert response.vanished([1, 2, 9]) == b"* VANISHED 1:2,9\r\n"
    assert response.vanished([1], earlier=True) == b"* VANISHED (EARLIER) 1\r\n"
