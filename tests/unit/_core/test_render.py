"""FETCH responses from the columns and from stored forms."""

from __future__ import annotations

import datetime
import random

import pytest

from rusmes._core import render
from rusmes._core.cursor import Cursor
from rusmes._core.ids import id_text
from rusmes._core.rows import EmailFacts, EmailRow
from rusmes._core.view import MailboxRows, Uids
from rusmes.mime.fields import parse_fields
from rusmes.mime.structure import parse_structure, render_structure

ID = bytes(range(16))
THREAD = bytes(range(16, 32))


def facts(envelope=b"(NIL)", structure=b'("text" "plain" NIL NIL NIL "7bit" 0 0 NIL NIL NIL NIL)'):
    row = EmailRow(1, ID, THREAD, 1.0, 10, 0, False, [(1, 2)], b"prefix", envelope, structure, b"headers")
    return EmailFacts.unpack(ID, row.pack(ID))


@pytest.fixture
def rows():
    rows = MailboxRows(1)
    rows.add(4, 90, ID, 0.0, 123, 1 | 16, ("$Work", "x"))
    rows.add(7, 91, ID, 1_700_000_000.9, 4_000_000_000, 0, ("only",))
    rows.add(9, 92, ID, 5e9, 5_000_000_000, 4)
    return rows


def test_columns(rows):
    cursor = Cursor(rows, recent_from=9)
    items = render.UID | render.FLAGS | render.INTERNALDATE | render.SIZE | render.MODSEQ
    data, missing = render.fetch_responses(cursor, Uids([4, 7, 9]), 0, 3, items)
    assert missing == 0
    assert data.decode() == (
        '* 1 FETCH (UID 4 FLAGS (\\Seen \\Draft $Work x) MODSEQ (90) INTERNALDATE "01-Jan-1970 00:00:00 +0000" '
        "RFC822.SIZE 123)\r\n"
        '* 2 FETCH (UID 7 FLAGS (only) MODSEQ (91) INTERNALDATE "14-Nov-2023 22:13:20 +0000" RFC822.SIZE 4000000000)\r\n'
        '* 3 FETCH (UID 9 FLAGS (\\Flagged \\Recent) MODSEQ (92) INTERNALDATE "11-Jun-2128 08:53:20 +0000" '
        "RFC822.SIZE 5000000000)\r\n"
    )


def test_flags_alone(rows):
    cursor = Cursor(rows, recent_from=4)
    rows.update(4, 100, 0)
    assert render.fetch_responses(cursor, Uids([4]), 0, 1, render.FLAGS) == (b"* 1 FETCH (FLAGS (\\Recent))\r\n", 0)


def test_stored_forms(rows):
    data, _ = render.fetch_responses(
        Cursor(rows), Uids([4]), 0, 1, render.ENVELOPE | render.BODYSTRUCTURE | render.BODY | render.EMAILID | render.THREADID,
        [facts()],
    )  # fmt: skip
    assert data.decode() == (
        f"* 1 FETCH (EMAILID ({id_text(ID)}) THREADID ({id_text(THREAD)}) ENVELOPE (NIL) "
        'BODY ("text" "plain" NIL NIL NIL "7bit" 0 0) '
        'BODYSTRUCTURE ("text" "plain" NIL NIL NIL "7bit" 0 0 NIL NIL NIL NIL))\r\n'
    )


def test_what_else_there_is(rows):
    data, missing = render.fetch_responses(
        Cursor(rows), Uids([4, 7]), 0, 2, render.UID, None, [b"BODY[] {2}\r\nhi", None]
    )
    assert (data, missing) == (b"* 1 FETCH (UID 4 BODY[] {2}\r\nhi)\r\n", 1)
    data, _ = render.fetch_responses(Cursor(rows), Uids([4, 7]), 0, 2, 0, None, [b"PREVIEW NIL", b""])
    assert data == b"* 1 FETCH (PREVIEW NIL)\r\n"


def test_messages_that_are_not_there_are_left_out(rows):
    cursor = Cursor(rows)
    rows.add(12, 99, ID, 1.0, 1, 0)
    assert render.fetch_responses(cursor, Uids([1, 9, 12]), 0, 3, render.UID) == (b"* 3 FETCH (UID 9)\r\n", 2)
    assert render.fetch_responses(cursor, Uids([4]), 0, 1, render.ENVELOPE, [None]) == (b"", 1)


def test_numbers_count_the_expunged_until_the_client_knows(rows):
    cursor, other = Cursor(rows), Cursor(rows)
    rows.expunge(7, 99)
    assert render.fetch_responses(cursor, Uids([7, 9]), 0, 2, render.UID) == (
        b"* 2 FETCH (UID 7)\r\n* 3 FETCH (UID 9)\r\n", 0,
    )  # fmt: skip
    cursor.advance(True)
    assert render.fetch_responses(cursor, Uids([7, 9]), 0, 2, render.UID) == (b"* 2 FETCH (UID 9)\r\n", 1)
    assert render.fetch_responses(other, Uids([9]), 0, 1, render.UID) == (b"* 3 FETCH (UID 9)\r\n", 0)


def test_uidfetch_has_the_uid_in_front(rows):
    assert render.fetch_responses(Cursor(rows), Uids([7]), 0, 1, render.FLAGS | render.UIDFETCH) == (
        b"* 7 UIDFETCH (FLAGS (only))\r\n", 0,
    )  # fmt: skip


def test_lists_of_another_length_are_refused(rows):
    cursor = Cursor(rows)
    for wrong in (
        lambda: render.fetch_responses(cursor, Uids([4]), 0, 1, render.ENVELOPE),
        lambda: render.fetch_responses(cursor, Uids([4]), 0, 1, render.UID, []),
        lambda: render.fetch_responses(cursor, Uids([4]), 0, 1, render.UID, None, []),
    ):
        with pytest.raises(ValueError, match="not as many"):
            wrong()
    with pytest.raises(IndexError):
        render.fetch_responses(cursor, Uids([4]), 0, 2, render.UID)


def test_dates_are_those_of_the_calendar():
    chance = random.Random(1)
    for seconds in [0, -1, 951782400, 4107542400, 253402300799, -62135596800] + [
        chance.randrange(-62135596800, 253402300799) for _ in range(500)
    ]:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
        month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][moment.month - 1]
        expected = f'"{moment.day:02}-{month}-{moment.year:04} {moment:%H:%M:%S} +0000"'
        assert render.internal_date(seconds).decode() == expected
    # A date-time has four digits of year.
    assert b"-9999 " in render.internal_date(1 << 40)
    assert b"-0000 " in render.internal_date(-(1 << 40))


MIXED = b"""Content-Type: multipart/mixed; boundary="a;)(\\"b"
Content-Disposition: inline

--a;)("b
Content-Type: message/rfc822
Content-Description: =?utf-8?q?x?= \xe4

Subject: in)(side
Content-Type: multipart/alternative; boundary=c

--c

text
--c
Content-Type: text/html; charset="a\\\\b"
Content-MD5: Q2hlY2s=
Content-Language: en, de

<p>
--c--
--a;)("b
Content-Type: image/png; name="x(y"
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename="z"

AAAA
--a;)("b--
""".replace(b"\n", b"\r\n")


def structure_of(message):
    at = message.index(b"\r\n\r\n") + 4
    return render_structure(parse_structure(parse_fields(message[:at]), message, at, len(message)), message)


def test_body_is_the_structure_without_extensions():
    structure = structure_of(MIXED)
    assert render.body_of(structure) == (
        b'(("message" "rfc822" NIL NIL {15}\r\n=?utf-8?q?x?= \xe4 "7bit" 190 (NIL "in)(side" NIL NIL NIL NIL NIL NIL NIL NIL) '
        b'(("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 4 0)("text" "html" ("charset" "a\\\\b") NIL NIL "7bit" 3 0) '
        b'"alternative") 12)("image" "png" ("name" "x(y") NIL NIL "base64" 4) "mixed")'
    )
    assert render.body_of(b'(("text" "plain" NIL NIL NIL "7bit" 0 0 NIL NIL NIL NIL) "mixed" NIL NIL NIL NIL)') == (
        b'(("text" "plain" NIL NIL NIL "7bit" 0 0) "mixed")'
    )


@pytest.mark.parametrize(
    "broken", [b"", b"(", b"()", b'("text"', b'("a" "b" NIL', b'(("a") "b"', b'("a', b"({99}\r\nx)", b"NIL"]
)
def test_a_broken_structure_is_refused(broken):
    with pytest.raises(ValueError, match="BODYSTRUCTURE"):
        render.body_of(broken)
