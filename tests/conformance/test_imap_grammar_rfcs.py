"""Commands as the RFCs of IMAP write them in their examples: each is grammar, and means what its RFC says."""

from __future__ import annotations

from typing import Any

import pytest

from rusmes.imap import command as c
from rusmes.imap.grammar import Malformed, parse
from rusmes.model import query as q

EXAMPLES: dict[tuple[str, str], list[str]] = {
    ("9051", "6.1"): ["a CAPABILITY", "a002 NOOP", "A023 LOGOUT"],
    ("2971", "3.3"): [
        'a023 ID ("name" "sodr" "version" "19.34" "vendor" "Pink Floyd Music Limited")',
        "a042 ID NIL",
        'a023 ID ("name" "so/\\"dr" "version" "19.34")',
    ],
    ("9051", "6.2"): ["a002 STARTTLS", "a005 AUTHENTICATE GSSAPI", "a001 LOGIN SMITH SESAME", "A001 LOGIN {} {}"],
    ("4959", "4"): ["C01 AUTHENTICATE PLAIN dGVzdAB0ZXN0AHRlc3Q=", "C01 AUTHENTICATE EXTERNAL ="],
    ("9051", "6.3.1"): ["t2 ENABLE CONDSTORE", "t3 ENABLE X-GOOD-IDEA", "a ENABLE IMAP4rev2 UTF8=ACCEPT"],
    ("9051", "6.3.2"): ["A142 SELECT INBOX", "A932 EXAMINE blurdybloop"],
    ("7162", "3.2.5"): [
        "A02 SELECT INBOX (QRESYNC (67890007 20050715194045000 41,43:211,214:541))",
        "B04 SELECT INBOX (QRESYNC (67890007 90060115205545359 41:211,214:541))",
        "A03 SELECT INBOX (QRESYNC (67890007 90060115194045000 41:211,214:541 (1:29 41:69)))",
        "a EXAMINE x (QRESYNC (67890007 90060115194045000 (500,1000,1500 2500,4600,6000)))",
    ],
    ("9051", "6.3.4"): ["A003 CREATE owatagusiam/", "A004 CREATE owatagusiam/blurdybloop"],
    ("6154", "5.2"): ["t2 CREATE MyDrafts (USE (\\Drafts))", "t1 CREATE Everything (USE (\\Drafts \\Sent))"],
    ("9051", "6.3.5"): ['A682 LIST "" *', "A683 DELETE blurdybloop", "A685 DELETE foo/bar"],
    ("9051", "6.3.6"): ["A683 RENAME blurdybloop sarasoon", "Z433 RENAME INBOX old-mail"],
    ("9051", "6.3.7"): ["A002 SUBSCRIBE #news.comp.mail.mime", "A002 UNSUBSCRIBE #news.comp.mail.mime"],
    ("9051", "6.3.9"): [
        'A101 LIST "" ""',
        'A102 LIST #news.comp.mail.misc ""',
        "A202 LIST ~/Mail/ %",
        'A01 LIST "" "*"',
        'A02 LIST (SUBSCRIBED) "" "*"',
        'A03 LIST () "" "%" RETURN (CHILDREN)',
        'A04 LIST (REMOTE) "" "%" RETURN (CHILDREN)',
        'A05 LIST (REMOTE SUBSCRIBED) "" "*"',
        'BBB LIST "" ("INBOX" "Drafts" "Sent/%")',
        'C01 LIST (SUBSCRIBED RECURSIVEMATCH) "" "%" RETURN (CHILDREN)',
        'a3 LIST (SUBSCRIBED RECURSIVEMATCH) "" "*" RETURN (CHILDREN)',
        'D01 LIST "" % RETURN (STATUS (MESSAGES UNSEEN))',
    ],
    ("5819", "3"): [
        'A01 LIST "" % RETURN (STATUS (MESSAGES UNSEEN))',
        'A02 LIST (SUBSCRIBED RECURSIVEMATCH) "" % RETURN (STATUS (MESSAGES))',
    ],
    ("6154", "5.3"): ['t1 LIST "" "%" RETURN (SPECIAL-USE)', 't2 LIST (SPECIAL-USE) "" "*"'],
    ("8440", "3"): ['A01 LIST "" % RETURN (MYRIGHTS)', 'A02 LIST (SUBSCRIBED RECURSIVEMATCH) "" % RETURN (MYRIGHTS)'],
    ("9590", "4"): ['A00 LIST "" % RETURN (METADATA ("/shared/vendor/cmu/cyrus-imapd/color"))'],
    ("3501", "6.3.9"): ['A002 LSUB "#news." "comp.mail.*"', 'A002 LSUB "#news." "comp.%"'],
    ("9051", "6.3.11"): ["A042 STATUS blurdybloop (UIDNEXT MESSAGES)"],
    ("8438", "4"): ["a STATUS frop (SIZE)"],
    ("9051", "6.3.12"): ["A003 APPEND saved-messages (\\Seen) {}", 'A APPEND x " 7-Feb-1994 21:52:25 -0800" {}'],
    ("3502", "6.3.11"): [
        "A003 APPEND saved-messages (\\Seen) {} {}",
        'A003 APPEND saved-messages (\\Seen) {} (\\Seen) " 7-Feb-1994 22:43:04 -0800" {}',
    ],
    ("4469", "3"): [
        'A003 APPEND Drafts (\\Seen \\Draft $MDNSent) CATENATE (URL "/Drafts;UIDVALIDITY=385759045/;UID=20/;section=HEADER"'
        ' TEXT {} URL "/Drafts;UIDVALIDITY=385759045/;UID=30" TEXT {})',
    ],
    ("6855", "4"): ["A APPEND x UTF8 (~{})", "A APPEND x (\\Seen) UTF8 (~{})"],
    ("8508", "3.4"): ["A003 REPLACE 4 Drafts (\\Seen \\Draft) {}", "A UID REPLACE 2000 Drafts (\\Seen \\Draft) {}"],
    ("9051", "6.3.13"): ["A002 IDLE"],
    ("5465", "3.1"): [
        "a NOTIFY SET STATUS (personal (MessageNew MessageExpunge)) (selected-delayed (MessageNew (UID FLAGS) MessageExpunge))",
        "a NOTIFY SET (selected MessageNew (UID BODY.PEEK[HEADER.FIELDS (From To)]) MessageExpunge)",
        "b NOTIFY NONE",
        "c NOTIFY SET (subtree Lists (MessageNew))",
        "c NOTIFY SET (mailboxes (misc INBOX) NONE)",
        "x NOTIFY SET (inboxes (FlagChange)) (subscribed (MailboxName SubscriptionChange))",
    ],
    ("9208", "4.1"): [
        'G0001 GETQUOTA "!partition/sda4"',
        "Q0001 GETQUOTA #user/alice",
        "G0002 GETQUOTAROOT INBOX",
        'S0000 GETQUOTA "#user/alice"',
        'S0001 SETQUOTA "#user/alice" (STORAGE 510)',
        'S SETQUOTA "#user/alice" ()',
    ],
    ("4314", "3"): [
        "A002 SETACL INBOX/Drafts David lrswida",
        "A035 SETACL INBOX/Drafts John lrQswicda",
        "B001 DELETEACL INBOX -Fred",
        "A002 GETACL INBOX",
        "a001 LISTRIGHTS ~/Mail/saved smith",
        "A003 MYRIGHTS INBOX",
    ],
    ("5464", "4.2"): [
        'a GETMETADATA "" /shared/comment',
        'a GETMETADATA "INBOX" (/shared/comment /private/comment)',
        'a GETMETADATA (DEPTH 1) "INBOX" (/private/filters/values)',
        'a GETMETADATA "INBOX" (MAXSIZE 1024) (/shared/comment /private/comment)',
    ],
    ("5464", "4.3"): [
        "a SETMETADATA INBOX (/private/comment {})",
        "a SETMETADATA INBOX (/private/comment NIL)",
        'a SETMETADATA INBOX (/private/comment "My new comment" /shared/comment "This one is for you!")',
    ],
    ("9051", "6.4"): [
        "A341 CLOSE",
        "A342 UNSELECT",
        "A202 EXPUNGE",
        "FXXZ CHECK",
        "A003 COPY 2:4 MEETING",
        "a UID MOVE 42:69 foo",
        "A003 UID EXPUNGE 3000:3002",
        "A003 UID STORE 3,4 FLAGS (\\Deleted)",
        "A654 FETCH 2:4 (FLAGS BODY[HEADER.FIELDS (DATE FROM)])",
        "A003 STORE 2:4 +FLAGS (\\Deleted)",
        "A999 UID FETCH 4827313:4828442 FLAGS",
        "a FETCH 1 BODY[]<0.2048>",
        "a FETCH 12 BODY.PEEK[4.2.MIME]",
    ],
    ("3516", "4.3"): ["A FETCH 1 BINARY[3]", "A FETCH 1 BINARY.PEEK[2.1]<4.10>", "A FETCH 3 BINARY.SIZE[1]"],
    ("7162", "3.1"): [
        "s100 UID FETCH 1:* (FLAGS) (CHANGEDSINCE 12345)",
        "s UID FETCH 300:500 (FLAGS) (CHANGEDSINCE 12345 VANISHED)",
        "a103 UID STORE 6,4,8 (UNCHANGEDSINCE 12121230045) +FLAGS.SILENT (\\Deleted)",
        "d STORE 7,5,9 (UNCHANGEDSINCE 320162338) +FLAGS.SILENT (\\Deleted)",
        "a SEARCH MODSEQ 620162338",
        'a SEARCH MODSEQ "/flags/\\\\draft" all 620162338',
        "t STORE 12 (UNCHANGEDSINCE 0) FLAGS \\Seen",
        "A SELECT INBOX (CONDSTORE)",
        "a STATUS blurdybloop (UIDNEXT MESSAGES HIGHESTMODSEQ)",
    ],
    ("8970", "4.1"): ["A1 FETCH 1 (PREVIEW)", "B1 FETCH 1 (RFC822.SIZE PREVIEW (LAZY))"],
    ("8474", "5.3"): [
        "10 FETCH 1:* (EMAILID THREADID)",
        "a SEARCH EMAILID M6d99ac3275bb4e",
        "b UID SEARCH THREADID T64b478a75b7ea9",
    ],
    ("8514", "4.3"): [
        "a FETCH 42 (SAVEDATE)",
        "a SEARCH SAVEDBEFORE 1-Feb-2015",
        "a SEARCH SAVEDATESUPPORTED NOT SAVEDSINCE 6-Oct-2014",
    ],
    ("9051", "6.4.4"): [
        'A282 SEARCH RETURN (MIN COUNT) FLAGGED SINCE 1-Feb-1994 NOT FROM "Smith"',
        "A283 SEARCH RETURN () FLAGGED",
        'A284 SEARCH TEXT "string not in mailbox"',
        "A285 SEARCH RETURN (SAVE) SINCE 1-Feb-1994",
        "P283 SEARCH CHARSET UTF-8 (OR $ 1,3000:3021) TEXT {}",
        'E282 SEARCH RETURN (SAVE MIN MAX) CHARSET UTF-8 UNSEEN TEXT "x"',
        "A UID SEARCH UID $ SMALLER 4096",
        "D FETCH $ FULL",
    ],
    ("5032", "3"): ["a1 SEARCH UNSEEN YOUNGER 259200", "a SEARCH OLDER 10"],
    ("6203", "3"): ['A1 SEARCH FUZZY (SUBJECT "IMAP break")', 'A2 SORT RETURN (ALL) (RELEVANCY) UTF-8 FUZZY SUBJECT "Helo"'],
    ("9394", "3.1"): [
        "A01 UID SEARCH RETURN (PARTIAL -1:-100) UNDELETED UNKEYWORD $Junk",
        "C02 UID FETCH 1:* (FLAGS) (PARTIAL -1:-30)",
    ],
    ("5256", "3"): [
        "A282 SORT (SUBJECT) UTF-8 SINCE 1-Feb-1994",
        "A283 SORT (SUBJECT REVERSE DATE) UTF-8 ALL",
        'A284 SORT (SUBJECT) US-ASCII TEXT "not in mailbox"',
        "A283 THREAD ORDEREDSUBJECT UTF-8 SINCE 5-MAR-2000",
        'A284 THREAD REFERENCES US-ASCII TEXT "gewp"',
    ],
    ("5957", "3"): ["a SORT (DISPLAYFROM REVERSE DISPLAYTO) UTF-8 ALL"],
    ("5267", "4"): [
        "A01 UID SEARCH RETURN (UPDATE CONTEXT) UNDELETED",
        'B01 CANCELUPDATE "A01"',
        "B UID SORT RETURN (UPDATE PARTIAL 1:2) (REVERSE DATE) UTF-8 UNDELETED",
    ],
    ("7377", "2.1"): [
        'tag1 ESEARCH IN (mailboxes "folder1" subtree "folder2") unseen',
        'tag2 ESEARCH IN (mailboxes "folder1" subtree-one "folder2") subject "chad"',
        "tag3 ESEARCH IN (personal) RETURN (COUNT ALL) UNSEEN",
    ],
    ("4978", "3"): ["b COMPRESS DEFLATE"],
    ("8437", "3"): ["b UNAUTHENTICATE"],
    ("9698", "3"): ["a GETJMAPACCESS"],
}

NOT_GRAMMAR = {
    # RFC 5465's own example leaves out the parentheses that its §8 wants; RFC 4314 §3.1 shows "Q" as what is refused.
    "a NOTIFY SET (selected MessageNew (UID BODY.PEEK[HEADER.FIELDS (From To)]) MessageExpunge)",
    "A035 SETACL INBOX/Drafts John lrQswicda",
}


def read(text: str) -> Any:
    return parse(text.replace("{}", "\0").encode(), [b"x"] * text.count("{}"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, marks=pytest.mark.rfc(*place), id=f"{place[0]} {text[:40]}")
        for place, texts in EXAMPLES.items()
        for text in texts
    ],
)
def test_the_examples_of_the_rfcs_are_grammar(text: str) -> None:
    found = read(text)
    if text in NOT_GRAMMAR:
        assert isinstance(found, Malformed)
        return
    assert isinstance(found, c.Command), found
    assert found.tag == text.split()[0].encode()
    # Commands, words and keywords are the same in every case (RFC 9051 §9 (1)); what is between quotes is not touched.
    tag, rest = text.split(" ", 1)
    if '"' not in text and not isinstance(found, c.Login | c.Authenticate | c.Select | c.Create | c.Append | c.Replace):
        lower = read(f"{tag} {rest.lower()}")
        assert type(lower) is type(found)


@pytest.mark.rfc("9051", "6.4.4")
def test_keys_are_joined_by_and() -> None:
    found = read('A282 SEARCH FLAGGED SINCE 1-Feb-1994 NOT FROM "Smith"')
    assert isinstance(found.query, q.And)
    assert [type(part) for part in found.query.parts] == [q.HasFlag, q.DateIs, q.Not]
    assert read("a SEARCH OR 1 NOT 2 SEEN").query == q.And(
        (q.Or((read("a SEARCH 1").query, q.Not(read("a SEARCH 2").query))), q.HasFlag("\\Seen"))
    )


@pytest.mark.rfc("9051", "9")
def test_a_set_may_be_written_in_any_order() -> None:
    assert read("a FETCH 5:3,*:4,1 UID").messages.resolve(9) == [(1, 1), (3, 9)]
    assert read("a FETCH *:4 UID").messages.resolve(2) == [(2, 4)]


@pytest.mark.rfc("9051", "2.3.2")
def test_system_flags_have_no_case_and_keywords_keep_theirs() -> None:
    assert read("a STORE 1 FLAGS (\\sEEN $MDNSent nonJunk)").flags == ("\\Seen", "$MDNSent", "nonJunk")
