"""Every command's grammar: what it becomes, and what is refused (RFC 9051 §9 and the extensions).

In the texts "{}" stands for a literal.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from rusmes.imap import command as c
from rusmes.imap.command import AppendMessage, FetchItem, NotifyEvents, QResync, SearchReturn, SearchSource, Section, UrlPart
from rusmes.imap.dates import parse_date_time, parse_day
from rusmes.imap.grammar import COMMANDS, UID_COMMANDS, Announced, Malformed, parse, parse_announced
from rusmes.imap.limits import LIST_ITEMS, NESTING, SEARCH_KEYS, SET_RANGES
from rusmes.model import query as q
from rusmes.model.query import SequenceSet

T = b"a"
FLAGS = FetchItem("FLAGS")


def of(text: str, *literals: bytes, utf8: bool = False) -> Any:
    raw = text.encode("latin-1" if not utf8 else "utf-8").replace(b"{}", b"\0")
    return parse(b"a " + raw, literals, is_utf8=utf8)


def ranges(*pairs: int | tuple[int, int]) -> SequenceSet:
    return SequenceSet(tuple((pair, pair) if isinstance(pair, int) else pair for pair in pairs))


GOOD: dict[str, c.Command] = {
    "CAPABILITY": c.Capability(T),
    "noop": c.Noop(T),
    "NOOP  ": c.Noop(T),
    "LoGoUt": c.Logout(T),
    "STARTTLS": c.StartTls(T),
    "NAMESPACE": c.Namespace(T),
    "UNAUTHENTICATE": c.Unauthenticate(T),
    "IDLE": c.Idle(T),
    "CHECK": c.Check(T),
    "CLOSE": c.Close(T),
    "UNSELECT": c.Close(T, False),
    "EXPUNGE": c.Expunge(T),
    "GETJMAPACCESS": c.GetJmapAccess(T),
    "ID NIL": c.Id(T),
    "ID ()": c.Id(T, ()),
    'ID ("name" "x" "version" NIL)': c.Id(T, ((b"name", b"x"), (b"version", None))),
    "AUTHENTICATE plain": c.Authenticate(T, "PLAIN"),
    "AUTHENTICATE PLAIN =": c.Authenticate(T, "PLAIN", b"="),
    "AUTHENTICATE PLAIN AGEAYg==": c.Authenticate(T, "PLAIN", b"AGEAYg=="),
    "LOGIN a]b +": c.Login(T, b"a]b", b"+"),
    'LOGIN "a\\"b" ""': c.Login(T, b'a"b', b""),
    "ENABLE condstore X-Y": c.Enable(T, ("CONDSTORE", "X-Y")),
    "COMPRESS deflate": c.Compress(T, "DEFLATE"),
    # Mailboxes
    "SELECT inbox": c.Select(T, "INBOX"),
    "EXAMINE a/b": c.Select(T, "a/b", True),
    "SELECT &ZeVnLIqe-": c.Select(T, "日本語"),
    "SELECT x (CONDSTORE)": c.Select(T, "x", condstore=True),
    "SELECT x (QRESYNC (1 2))": c.Select(T, "x", qresync=QResync(1, 2)),
    "SELECT x (QRESYNC (1 2 3:5))": c.Select(T, "x", qresync=QResync(1, 2, ranges((3, 5)))),
    "SELECT x (QRESYNC (1 2 (1,2 5:6)) CONDSTORE)": c.Select(
        T, "x", condstore=True, qresync=QResync(1, 2, None, ranges(1, 2), ranges((5, 6)))
    ),
    "SELECT x (QRESYNC (1 2 9 (1 5)))": c.Select(T, "x", qresync=QResync(1, 2, ranges(9), ranges(1), ranges(5))),
    "CREATE a/": c.Create(T, "a", True),
    "CREATE /": c.Create(T, "/"),
    "CREATE a (USE (\\Sent \\X))": c.Create(T, "a", special_uses=("\\Sent", "\\X")),
    "CREATE a (USE ())": c.Create(T, "a"),
    'DELETE "a b"': c.Delete(T, "a b"),
    "RENAME a b": c.Rename(T, "a", "b"),
    "SUBSCRIBE a": c.Subscribe(T, "a"),
    "UNSUBSCRIBE a": c.Subscribe(T, "a", False),
    'LIST "" *': c.List(T, "", ("*",)),
    'LSUB "" "%"': c.List(T, "", ("%",), is_lsub=True),
    'LIST () "" (a b%)': c.List(T, "", ("a", "b%"), is_extended=True),
    'LIST (SUBSCRIBED REMOTE RECURSIVEMATCH SPECIAL-USE) "" "a" RETURN (CHILDREN SUBSCRIBED SPECIAL-USE MYRIGHTS)': c.List(
        T, "", ("a",), is_extended=True, select_subscribed=True, select_remote=True, recursive_match=True,
        select_special_use=True, return_children=True, return_subscribed=True, return_special_use=True, return_my_rights=True,
    ),
    'LIST "" % RETURN ()': c.List(T, "", ("%",), is_extended=True),
    'LIST "" % RETURN (STATUS (MESSAGES UNSEEN) CHILDREN)': c.List(
        T, "", ("%",), is_extended=True, return_status=("MESSAGES", "UNSEEN"), return_children=True
    ),
    'LIST "" % RETURN (METADATA ("/Shared/comment" /private/x))': c.List(
        T, "", ("%",), is_extended=True, return_metadata=("/shared/comment", "/private/x")
    ),
    'LIST "" % RETURN (METADATA (DEPTH infinity MAXSIZE 9) /shared/comment)': c.List(
        T, "", ("%",), is_extended=True, return_metadata=("/shared/comment",), return_metadata_depth=-1,
        return_metadata_max_size=9,
    ),
    "STATUS a (MESSAGES deleted-storage MAILBOXID)": c.Status(T, "a", ("MESSAGES", "DELETED-STORAGE", "MAILBOXID")),
    'GETQUOTA ""': c.GetQuota(T, b""),
    "GETQUOTAROOT inbox": c.GetQuotaRoot(T, "INBOX"),
    "SETQUOTA x (STORAGE 10 message 9223372036854775807)": c.SetQuota(T, b"x", (("STORAGE", 10), ("MESSAGE", 2**63 - 1))),
    "SETQUOTA x ()": c.SetQuota(T, b"x", ()),
    "GETACL a": c.GetAcl(T, "a"),
    "SETACL a bob lrs": c.SetAcl(T, "a", b"bob", "lrs"),
    'SETACL a -bob "+x0"': c.SetAcl(T, "a", b"-bob", "x0", "add"),
    "SETACL a bob -": c.SetAcl(T, "a", b"bob", "", "remove"),
    'SETACL a bob ""': c.SetAcl(T, "a", b"bob", ""),
    "DELETEACL a bob": c.DeleteAcl(T, "a", b"bob"),
    "LISTRIGHTS a bob": c.ListRights(T, "a", b"bob"),
    "MYRIGHTS a": c.MyRights(T, "a"),
    'GETMETADATA "" /Shared/Comment': c.GetMetadata(T, "", ("/shared/comment",)),
    "GETMETADATA (MAXSIZE 1024 DEPTH 1) a (/private/x /private/y)": c.GetMetadata(
        T, "a", ("/private/x", "/private/y"), 1, 1024
    ),
    "GETMETADATA a (DEPTH infinity) /private": c.GetMetadata(T, "a", ("/private",), -1),
    'SETMETADATA a (/private/x NIL /private/y "z")': c.SetMetadata(T, "a", (("/private/x", None), ("/private/y", b"z"))),
    "NOTIFY NONE": c.Notify(T),
    "NOTIFY SET (selected MessageNew)": Malformed(T, "unknown events MESSAGENEW"),  # type: ignore[dict-item]
    "NOTIFY SET STATUS (selected-delayed (messagenew (FLAGS) MessageExpunge)) (mailboxes (a b) NONE)": c.Notify(
        T,
        (
            NotifyEvents("selected-delayed", (), ("MessageNew", "MessageExpunge"), (FLAGS,)),
            NotifyEvents("mailboxes", ("a", "b")),
        ),
        True,
    ),
    "NOTIFY SET (subtree a (MailboxName SubscriptionChange))": c.Notify(
        T, (NotifyEvents("subtree", ("a",), ("MailboxName", "SubscriptionChange")),)
    ),
    # Messages
    "FETCH 1 ALL": c.Fetch(T, ranges(1), tuple(map(FetchItem, ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE")))),
    "FETCH 1 full": c.Fetch(T, ranges(1), tuple(map(FetchItem, ("FLAGS", "INTERNALDATE", "RFC822.SIZE", "ENVELOPE", "BODY")))),
    "FETCH 1:2,* FLAGS": c.Fetch(T, ranges((1, 2), 0), (FLAGS,)),
    "UID FETCH $ (uid rfc822)": c.Fetch(T, SequenceSet(saved=True), (FetchItem("UID"), FetchItem("RFC822")), True),
    "FETCH 1 BODY[]": c.Fetch(T, ranges(1), (FetchItem("BODY[]", Section()),)),
    "FETCH 1 (body.peek[1.2.MIME]<0.10>)": c.Fetch(
        T, ranges(1), (FetchItem("BODY[]", Section((1, 2), "MIME"), True, (0, 10)),)
    ),
    "FETCH 1 BODY[3.HEADER.FIELDS.NOT (From \"a b\" x-y)]": c.Fetch(
        T, ranges(1), (FetchItem("BODY[]", Section((3,), "HEADER.FIELDS.NOT", (b"From", b"a b", b"x-y"))),)
    ),
    "FETCH 1 BODY[header]": c.Fetch(T, ranges(1), (FetchItem("BODY[]", Section((), "HEADER")),)),
    "FETCH 1 (BODY BODYSTRUCTURE BODY[4])": c.Fetch(
        T, ranges(1), (FetchItem("BODY"), FetchItem("BODYSTRUCTURE"), FetchItem("BODY[]", Section((4,))))
    ),
    "FETCH 1 (BINARY[1.2]<5.6> BINARY.PEEK[] BINARY.SIZE[3])": c.Fetch(
        T, ranges(1),
        (
            FetchItem("BINARY", Section((1, 2)), False, (5, 6)), FetchItem("BINARY", Section(), True),
            FetchItem("BINARY.SIZE", Section((3,)), True),
        ),
    ),
    "FETCH 1 (PREVIEW MODSEQ EMAILID THREADID SAVEDATE)": c.Fetch(
        T, ranges(1), tuple(map(FetchItem, ("PREVIEW", "MODSEQ", "EMAILID", "THREADID", "SAVEDATE")))
    ),
    "FETCH 1 PREVIEW (LAZY)": c.Fetch(T, ranges(1), (FetchItem("PREVIEW", lazy=True),)),
    "FETCH 1 (PREVIEW (LAZY) UID)": c.Fetch(T, ranges(1), (FetchItem("PREVIEW", lazy=True), FetchItem("UID"))),
    "FETCH 1 PREVIEW (CHANGEDSINCE 5)": c.Fetch(T, ranges(1), (FetchItem("PREVIEW"),), changed_since=5),
    "UID FETCH 1 FLAGS (CHANGEDSINCE 9223372036854775807 VANISHED PARTIAL -5:-1)": c.Fetch(
        T, ranges(1), (FLAGS,), True, 2**63 - 1, True, (-1, -5)
    ),
    "STORE 1 FLAGS ()": c.Store(T, ranges(1), "set", ()),
    "UID STORE 1 +flags.silent (\\seen $x)": c.Store(T, ranges(1), "add", ("\\Seen", "$x"), True, True),
    "STORE 1 (UNCHANGEDSINCE 0) -FLAGS \\Deleted foo": c.Store(
        T, ranges(1), "remove", ("\\Deleted", "foo"), unchanged_since=0
    ),
    "COPY 1 a": c.Copy(T, ranges(1), "a"),
    "MOVE 1 a": c.Copy(T, ranges(1), "a", move=True),
    "UID MOVE 1:* a": c.Copy(T, ranges((1, 0)), "a", True, True),
    "UID EXPUNGE 1:3": c.Expunge(T, ranges((1, 3))),
    # Searches
    "SEARCH ALL": c.Search(T, q.Everything()),
    "UID SEARCH 1:3 UID 5 $": c.Search(
        T, q.And((q.Numbers(ranges((1, 3))), q.Uids(ranges(5)), q.Numbers(SequenceSet(saved=True)))), True
    ),
    "SEARCH NEW OLD": c.Search(
        T, q.And((q.And((q.HasFlag("\\Recent"), q.Not(q.HasFlag("\\Seen")))), q.Not(q.HasFlag("\\Recent"))))
    ),
    "SEARCH (SEEN)": c.Search(T, q.HasFlag("\\Seen")),
    "SEARCH NOT (SEEN DRAFT)": c.Search(T, q.Not(q.And((q.HasFlag("\\Seen"), q.HasFlag("\\Draft"))))),
    'SEARCH OR FROM "bob" TO al': c.Search(T, q.Or((q.HeaderContains("From", "bob"), q.HeaderContains("To", "al")))),
    'SEARCH HEADER X-Y ""': c.Search(T, q.HeaderContains("X-Y", "")),
    'SEARCH TEXT "a b" BODY c SUBJECT d': c.Search(
        T, q.And((q.TextContains("a b"), q.BodyContains("c"), q.HeaderContains("Subject", "d")))
    ),
    "SEARCH KEYWORD $Junk UNKEYWORD x": c.Search(T, q.And((q.HasFlag("$Junk"), q.Not(q.HasFlag("x"))))),
    "SEARCH LARGER 5 SMALLER 9223372036854775807": c.Search(T, q.And((q.SizeAbove(5), q.SizeBelow(2**63 - 1)))),
    'SEARCH BEFORE 1-Feb-2024 SENTON "02-feb-2024" SAVEDSINCE 3-Feb-2024': c.Search(
        T,
        q.And(
            (
                q.DateIs("internal", "before", parse_day(b"1-Feb-2024")), q.DateIs("sent", "on", parse_day(b"2-Feb-2024")),
                q.DateIs("saved", "since", parse_day(b"3-Feb-2024")),
            )
        ),
    ),
    "SEARCH OLDER 5 YOUNGER 6": c.Search(T, q.And((q.OlderThan(5), q.YoungerThan(6)))),
    'SEARCH MODSEQ 0 MODSEQ "/flags/\\\\Seen" all 7': c.Search(T, q.And((q.ModifiedSince(0), q.ModifiedSince(7)))),
    "SEARCH EMAILID M1 THREADID T-1": c.Search(T, q.And((q.EmailIdIs("M1"), q.ThreadIdIs("T-1")))),
    "SEARCH FUZZY SUBJECT x SAVEDATESUPPORTED": c.Search(
        T, q.And((q.Fuzzy(q.HeaderContains("Subject", "x")), q.SaveDateSupported()))
    ),
    "SEARCH RETURN () SEEN": c.Search(T, q.HasFlag("\\Seen"), results=SearchReturn(all=True)),
    "SEARCH RETURN (MIN MAX COUNT SAVE) CHARSET utf-8 SEEN": c.Search(
        T, q.HasFlag("\\Seen"), results=SearchReturn(min=True, max=True, count=True, save=True), charset="UTF-8"
    ),
    "UID SEARCH RETURN (PARTIAL 10:1 UPDATE CONTEXT RELEVANCY) ALL": c.Search(
        T, q.Everything(), True, SearchReturn(partial=(1, 10), update=True, context=True, relevancy=True)
    ),
    "ESEARCH ALL": c.Search(T, q.Everything(), True, SearchReturn(all=True), source=SearchSource((("selected", ()),))),
    "ESEARCH IN (selected subtree-one a mailboxes (b c)) RETURN (COUNT) UNSEEN": c.Search(
        T, q.Not(q.HasFlag("\\Seen")), True, SearchReturn(count=True),
        source=SearchSource((("selected", ()), ("subtree-one", ("a",)), ("mailboxes", ("b", "c")))),
    ),
    "SORT (REVERSE DATE SUBJECT displayfrom) US-ASCII ALL": c.Sort(
        T, (("DATE", True), ("SUBJECT", False), ("DISPLAYFROM", False)), q.Everything(), "US-ASCII"
    ),
    "UID SORT RETURN (COUNT) (SIZE) UTF-8 SEEN": c.Sort(
        T, (("SIZE", False),), q.HasFlag("\\Seen"), "UTF-8", True, SearchReturn(count=True)
    ),
    "THREAD references UTF-8 ALL": c.Thread(T, "REFERENCES", q.Everything(), "UTF-8"),
    "UID THREAD ORDEREDSUBJECT US-ASCII 1": c.Thread(T, "ORDEREDSUBJECT", q.Numbers(ranges(1)), "US-ASCII", True),
    'CANCELUPDATE "a1" "b"': c.CancelUpdate(T, (b"a1", b"b")),
}  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_what_it_becomes(text: str) -> None:
    assert of(text) == GOOD[text]


def test_every_command_is_tried() -> None:
    tried = {text.split()[0].upper() for text in GOOD} | {"APPEND", "REPLACE"}
    assert tried - {"UID"} == set(COMMANDS)
    by_uid = {text.split()[1] for text in GOOD if text.startswith("UID")} | {"REPLACE"}
    assert by_uid | {"COPY"} == set(UID_COMMANDS)


BAD = [
    "", "FOO", "NOOP x", "CAPABILITY (", "LOGOUT {}", "UID", "UID NOOP", "UID FOO 1", "UIDFETCH 1 FLAGS", "NO OP", "NOOP\t",
    "NOOP\r", "ID", "ID x", "ID (a b)", 'ID ("a")', 'ID ("a" "b" "c")', 'ID ("a" "b")x',
    "ID NILL", "ID nil x", "AUTHENTICATE",
    "AUTHENTICATE (", "AUTHENTICATE PLAIN x y", 'AUTHENTICATE PLAIN "x"', 'AUTHENTICATE "PLAIN"', "LOGIN", "LOGIN a",
    "LOGIN a b c", "LOGIN  a b", "LOGIN a  b", "LOGIN (a) b", 'LOGIN "a b', 'LOGIN "a"b c', "LOGIN a* b", 'LOGIN "\xe9" b',
    "LOGIN \xe9 b", "LOGIN a\\ b", 'LOGIN "a\\x" b', "LOGIN a%b c", "LOGIN ~{} b", "LOGIN x{} b", "LOGIN {}x b", "ENABLE",
    "ENABLE (", "COMPRESS", "COMPRESS DEFLATE x", "STARTTLS x", "IDLE x", "GETJMAPACCESS x", "UNAUTHENTICATE x", "SELECT",
    "SELECT a b", "SELECT a ()", "SELECT a (FOO)", "SELECT a (CONDSTORE", "SELECT a (CONDSTORE CONDSTORE)",
    "SELECT a (QRESYNC)", "SELECT a (QRESYNC (1))", "SELECT a (QRESYNC (0 1))", "SELECT a (QRESYNC (1 0))",
    "SELECT a (QRESYNC (1 2 *))", "SELECT a (QRESYNC (1 2 $))", "SELECT a (QRESYNC (1 2 3 (1)))",
    "SELECT a (QRESYNC (1 2 3 (1 2) 4))", "SELECT a (QRESYNC (1 9223372036854775808))", "SELECT a (QRESYNC (4294967296 1))",
    "SELECT %", "EXAMINE", "SELECT a*", "CREATE", "CREATE a (USE)", "CREATE a (USE \\Sent)", "CREATE a (USE (Sent))",
    "CREATE a (FOO (x))", "CREATE a ()", "DELETE", "DELETE a b", "RENAME a", "RENAME a b c", "SUBSCRIBE", "UNSUBSCRIBE a b",
    "LIST", 'LIST ""', 'LIST "" ()', 'LIST "" a b', 'LIST (FOO) "" a', 'LIST (RECURSIVEMATCH) "" a',
    'LIST (REMOTE RECURSIVEMATCH) "" a', 'LIST "" a RETURN', 'LIST "" a RETURN (FOO)', 'LIST "" a RETURN (STATUS)',
    'LIST "" a RETURN (STATUS ())', 'LIST "" a FOO ()', 'LIST "" a RETURN (STATUS (FOO))', 'LIST "" a RETURN (METADATA)',
    'LIST "" a RETURN (METADATA ())', 'LIST "" (a) RETURN (CHILDREN', 'LIST "" a RETURN (METADATA (DEPTH 2) /a/b)',
    'LIST "" "\xe9"', 'LIST "" a\\', 'LSUB ""', 'LSUB "" (a b)', 'LSUB (SUBSCRIBED) "" a', "STATUS", "STATUS a", "STATUS a ()",
    "STATUS a MESSAGES", "STATUS a (FOO)", "STATUS a (MESSAGES) x", "STATUS a (MESSAGES UNSEEN", "GETQUOTA", "GETQUOTA a b",
    "GETQUOTAROOT", "SETQUOTA a", "SETQUOTA a (STORAGE)", "SETQUOTA a (STORAGE x)", "SETQUOTA a (STORAGE 9223372036854775808)",
    "SETQUOTA a STORAGE 5", "SETQUOTA a (STORAGE -1)", "GETACL", "SETACL a", "SETACL a b", "SETACL a b LR", "SETACL a b l+r",
    'SETACL a b "l r"', "DELETEACL a", "LISTRIGHTS a", "MYRIGHTS", "GETMETADATA", "GETMETADATA a", "GETMETADATA a x",
    "GETMETADATA a ()", "GETMETADATA a /x/", "GETMETADATA a /x//y", "GETMETADATA a /x*", "GETMETADATA a /",
    "GETMETADATA (DEPTH 2) a /x", "GETMETADATA (FOO 1) a /x", "GETMETADATA (MAXSIZE -1) a /x", "GETMETADATA () a /x",
    'GETMETADATA a "/x%"', 'GETMETADATA a "/x\x01"', "GETMETADATA a (MAXSIZE 1)", "SETMETADATA a", "SETMETADATA a (/x)",
    "SETMETADATA a (/x y)", "SETMETADATA a ()", "SETMETADATA a /x NIL", "SETMETADATA a (x NIL)", "SETMETADATA a (/x ~)",
    "SETMETADATA a (/x NIL /y)", "NOTIFY", "NOTIFY FOO", "NOTIFY SET", "NOTIFY SET ()", "NOTIFY SET (foo NONE)",
    "NOTIFY SET (selected ())", "NOTIFY SET (selected (Foo))", "NOTIFY SET (subtree (MessageNew))", "NOTIFY SET STATUS",
    "NOTIFY NONE x", "NOTIFY SET (mailboxes () NONE)", "NOTIFY SET selected NONE", "NOTIFY SET (selected NONE)x",
    "NOTIFY SET (selected (MessageNew (FOO)))", "NOTIFY SET (subtree-one a NONE)", "FETCH", "FETCH 1", "FETCH 1 ()",
    "FETCH 1 FOO", "FETCH 1 (ALL)", "FETCH 1 FLAGS UID", "FETCH 0 FLAGS", "FETCH 1: FLAGS", "FETCH 1,,2 FLAGS",
    "FETCH 4294967296 FLAGS", "FETCH x FLAGS", "FETCH 1 (FLAGS", "FETCH 1 (FLAGS  UID)", "FETCH 1 (FLAGS )",
    "FETCH 1 ( FLAGS)", "FETCH 1 ((FLAGS))", "FETCH 1 BODY[", "FETCH 1 BODY[FOO]", "FETCH 1 BODY[MIME]", "FETCH 1 BODY[0]",
    "FETCH 1 BODY[1.]", "FETCH 1 BODY[.1]", "FETCH 1 BODY[1..2]", "FETCH 1 BODY[1.FOO]", "FETCH 1 BODY[HEADER.FIELDS]",
    "FETCH 1 BODY[HEADER.FIELDS ()]", "FETCH 1 BODY[HEADER.FIELDS (a]", "FETCH 1 BODY[TEXT.1]", "FETCH 1 BODY[]<0>",
    "FETCH 1 BODY[]<0.0>", "FETCH 1 BODY[]<.1>", "FETCH 1 BODY[]<0.1", "FETCH 1 BODY[]<-1.5>", "FETCH 1 BODY.PEEK",
    "FETCH 1 BODY[]<9223372036854775808.1>", "FETCH 1 BINARY", "FETCH 1 BINARY[TEXT]", "FETCH 1 BINARY.SIZE[1]<0.1>",
    "FETCH 1 RFC822[]", "FETCH 1 FLAGS[]", "FETCH 1 BODY[4294967296]", "FETCH 1 PREVIEW (FOO)",
    "FETCH 1 (PREVIEW (LAZY LAZY))", "FETCH 1 BODY []", "FETCH 1 FLAGS (FOO)", "FETCH 1 FLAGS ()",
    "FETCH 1 FLAGS (CHANGEDSINCE)", "FETCH 1 FLAGS (CHANGEDSINCE 0)", "FETCH 1 FLAGS (VANISHED)",
    "UID FETCH 1 FLAGS (VANISHED)", "FETCH 1 FLAGS (CHANGEDSINCE 1 VANISHED)", "FETCH 1 FLAGS (PARTIAL 1:2)",
    "UID FETCH 1 FLAGS (PARTIAL 0:2)", "UID FETCH 1 FLAGS (PARTIAL 1:-2)", "UID FETCH 1 FLAGS (PARTIAL -1:2)",
    "UID FETCH 1 FLAGS (PARTIAL 1)", "UID FETCH 1 FLAGS (CHANGEDSINCE 1) x",
    "UID FETCH 1 FLAGS (CHANGEDSINCE 1 CHANGEDSINCE 2)", "FETCH 1 FLAGS x", "FETCH 1  FLAGS", "FETCH 1FLAGS",
    "FETCH $,1 FLAGS", "FETCH $1 FLAGS", "STORE", "STORE 1", "STORE 1 FLAGS", "STORE 1 FOO (x)", "STORE 1 +FLAGS.LOUD (x)",
    "STORE 1 + FLAGS (x)", "STORE 1 FLAGS (\\)", "STORE 1 FLAGS (\\*)", "STORE 1 FLAGS (a b", "STORE 1 FLAGS a (b)",
    "STORE 1 () FLAGS (x)", "STORE 1 (FOO 1) FLAGS (x)", "STORE 1 (UNCHANGEDSINCE) FLAGS (x)",
    "STORE 1 (UNCHANGEDSINCE -1) FLAGS (x)", "STORE 1 FLAGS (x) y", 'STORE 1 FLAGS ("x")', "COPY", "COPY 1", "COPY 1 a b",
    "MOVE 0 a", "COPY a 1", "EXPUNGE 1", "UID EXPUNGE", "UID EXPUNGE x", "CLOSE x", "UNSELECT x", "CHECK 1", "SEARCH",
    "SEARCH ()", "SEARCH (SEEN", "SEARCH SEEN)", "SEARCH FOO", "SEARCH NOT", "SEARCH OR SEEN", "SEARCH FROM",
    "SEARCH HEADER a", "SEARCH 0", "SEARCH UID", "SEARCH UID x", "SEARCH BEFORE 2024-01-01", "SEARCH BEFORE",
    "SEARCH LARGER x", "SEARCH LARGER -1", "SEARCH LARGER 9223372036854775808", "SEARCH OLDER 0", "SEARCH YOUNGER x",
    "SEARCH MODSEQ", 'SEARCH MODSEQ "x" all 1', 'SEARCH MODSEQ "/flags/x" foo 1', "SEARCH EMAILID", "SEARCH THREADID (",
    "SEARCH FUZZY", "SEARCH KEYWORD \\Seen", "SEARCH SEEN  DRAFT", "SEARCH RETURN ALL", "SEARCH RETURN (FOO) ALL",
    "SEARCH RETURN (ALL PARTIAL 1:2) ALL", "SEARCH RETURN (PARTIAL 1:2 PARTIAL 1:2) ALL", "SEARCH RETURN (MIN)",
    "SEARCH CHARSET UTF-8", "SEARCH CHARSET", "SEARCH SEEN CHARSET UTF-8", "SEARCH CHARSET UTF-8 RETURN (ALL) ALL",
    "SEARCH HEADER \xe9 x", "SEARCH RETURN (PARTIAL 1) ALL", "ESEARCH", "ESEARCH IN () ALL", "ESEARCH IN (foo) ALL",
    "ESEARCH IN (mailboxes) ALL", "ESEARCH IN (selected (x)) ALL", "ESEARCH IN selected ALL", "UID ESEARCH ALL", "SORT",
    "SORT ALL", "SORT () UTF-8 ALL", "SORT (FOO) UTF-8 ALL", "SORT (REVERSE) UTF-8 ALL", "SORT (SIZE) UTF-8", "SORT (SIZE)",
    "SORT (REVERSE REVERSE SIZE) UTF-8 ALL", "THREAD", "THREAD FOO UTF-8 ALL", "THREAD REFERENCES (ALL)",
    "THREAD REFERENCES UTF-8", "CANCELUPDATE", "CANCELUPDATE a1", 'CANCELUPDATE "a"x', "APPEND", "APPEND a", "APPEND a x",
    "APPEND a ()", "APPEND a (\\Seen)", "APPEND a {}x", 'APPEND a "x" {}', "APPEND a NIL {}",
    'APPEND a "01-Feb-2024 00:00:00 +0000" (\\Seen) {}', "APPEND a (\\Seen){}", "APPEND a  {}", "APPEND a {} {}x",
    "APPEND a {} (x)", "APPEND a UTF8 {}", "APPEND a UTF8 ({})", "APPEND a UTF8 (~{}", "APPEND a CATENATE",
    "APPEND a CATENATE ()", "APPEND a CATENATE (TEXT)", "APPEND a CATENATE (URL)", "APPEND a CATENATE (FOO {})",
    "APPEND a CATENATE (TEXT {}", "APPEND a CATENATE (TEXT x)", "APPEND {}", "REPLACE", "REPLACE 1", "REPLACE 1 a",
    "REPLACE 0 a {}", "REPLACE 1:2 a {}", "REPLACE 1 a {} {}", "REPLACE $ a {}", "UID REPLACE x a {}",
]  # fmt: skip


@pytest.mark.rfc("9051", "7.1.3")
@pytest.mark.parametrize("text", BAD)
def test_what_is_not_grammar_is_bad(text: str) -> None:
    found = of(text, *[b"x"] * text.count("{}"))
    assert isinstance(found, Malformed), found
    assert found.tag == T
    assert found.wire().startswith(b"a BAD ")
    assert found.wire().count(b"\r\n") == 1


@pytest.mark.parametrize("text", [text for text in GOOD if "(selected MessageNew)" not in text])
def test_what_is_cut_short_or_goes_on_is_bad_or_something_else(text: str) -> None:
    """No prefix of a command is read as the whole of it, and nothing may follow it."""
    for end in range(len(text)):
        found = of(text[:end])
        assert found != GOOD[text] or text[end:].isspace() or text == "CREATE a (USE ())", text[:end]
    for more in (")", " \0", '"', " (", "\r"):
        assert isinstance(of(text + more, b"\0"), Malformed), text + more


@pytest.mark.parametrize("tag", ["*", "+", "a+", '"a"', "a{}", "(a)", "\xe9", "", "%", "a\x01", "\\", "x" * 129])
def test_without_a_tag_the_reply_is_untagged(tag: str) -> None:
    """`* 1 EXISTS` is a server's word; a tag has no "+" (RFC 9051 §9)."""
    for rest in (" NOOP", " 1 EXISTS", ""):
        found = parse(tag.encode("latin-1") + rest.encode())
        assert isinstance(found, Malformed)
        if tag not in ("a+", "a{}", "a\x01"):
            assert found.wire().startswith(b"* BAD ")
        else:
            assert found.wire().startswith(b"a BAD ")


def test_a_tag_is_any_word() -> None:
    for tag in (b"]", b"a]b", b"0", b"NOOP", b"A-1.x/y&z!", b"x" * 128):
        assert parse(tag + b" NOOP") == c.Noop(tag)


# Literals


@pytest.mark.rfc("9051", "4.3")
def test_literals_stand_for_strings() -> None:
    assert of("LOGIN {} {}", b"a\r\nb", b"\xff") == c.Login(T, b"a\r\nb", b"\xff")
    assert of("SELECT {}", b"") == c.Select(T, "")
    assert of("SEARCH (FROM {} {})", b"bob", b"x") == Malformed(T, "expected a name")
    assert of("SEARCH (FROM {} TEXT {})", b"bob", "é".encode()) == c.Search(
        T, q.And((q.HeaderContains("From", "bob"), q.TextContains("é")))
    )
    assert of("FETCH 1 BODY[HEADER.FIELDS ({})]", b"To") == c.Fetch(
        T, ranges(1), (FetchItem("BODY[]", Section((), "HEADER.FIELDS", (b"To",))),)
    )
    assert of("LIST {} {}", b"", b"%") == c.List(T, "", ("%",))
    assert of("ID ({} {})", b"name", b"x") == c.Id(T, ((b"name", b"x"),))
    assert of("SETMETADATA {} ({} {})", b"a", b"/x/y", b"z") == c.SetMetadata(T, "a", (("/x/y", b"z"),))
    assert of("SETMETADATA a (/x/y ~{})", b"\0") == c.SetMetadata(T, "a", (("/x/y", b"\0"),))
    assert isinstance(of("SETMETADATA a (/x/y {})", b"\0"), Malformed)
    assert isinstance(of("LOGIN {} b", b"a\0"), Malformed)


MESSAGES = {
    "APPEND a {}": c.Append(T, "a", (AppendMessage((b"1",)),)),
    "APPEND a ~{}": c.Append(T, "a", (AppendMessage((b"1",)),)),
    'APPEND a (\\seen x) " 1-Feb-2024 00:00:00 +0000" {}': c.Append(
        T, "a", (AppendMessage((b"1",), ("\\Seen", "x"), parse_date_time(b"01-Feb-2024 00:00:00 +0000")),)
    ),
    "APPEND a {} (x) {} ~{} ": c.Append(
        T, "a", (AppendMessage((b"1",)), AppendMessage((b"2",), ("x",)), AppendMessage((b"3",)))
    ),
    "APPEND {} {}": Malformed(T, "unused"),
    "APPEND a UTF8 (~{})": c.Append(T, "a", (AppendMessage((b"1",), is_utf8=True),)),
    'APPEND a () CATENATE (URL "/x;UID=1" TEXT {} URL /y TEXT ~{})': c.Append(
        T, "a",
        (AppendMessage((UrlPart(b"/x;UID=1"), b"1", UrlPart(b"/y"), b"2"), is_catenate=True),),
    ),
    "APPEND a CATENATE (UTF8 (~{})) {}": c.Append(
        T, "a", (AppendMessage((b"1",), is_catenate=True, is_utf8=True), AppendMessage((b"2",)))
    ),
    "REPLACE 5 a (x) {}": c.Replace(T, 5, "a", AppendMessage((b"1",), ("x",))),
    "UID REPLACE * a CATENATE (TEXT {})": c.Replace(T, 0, "a", AppendMessage((b"1",), is_catenate=True), True),
}  # fmt: skip


@pytest.mark.rfc("3502", "6.3.11")
@pytest.mark.parametrize("text", MESSAGES)
def test_messages(text: str) -> None:
    expected = MESSAGES[text] if text != "APPEND {} {}" else c.Append(T, "1", (AppendMessage((b"2",)),))
    assert of(text, *[b"%d" % n for n in range(1, text.count("{}") + 1)]) == expected


@pytest.mark.parametrize(
    ("text", "count", "expected"),
    [
        ("APPEND a {}", 0, Announced(T, c.Append, "a")),
        ("APPEND a (x) {} {}", 1, Announced(T, c.Append, "a")),
        ("APPEND a CATENATE (URL {}", 0, Announced(T, c.Append)),
        ("APPEND a CATENATE (TEXT {}", 0, Announced(T, c.Append, "a")),
        ("APPEND a CATENATE (TEXT {} TEXT ~{}", 1, Announced(T, c.Append, "a", 3)),
        ("APPEND a {} CATENATE (TEXT {} URL {} UTF8 (~{}", 3, Announced(T, c.Append, "a", 3)),
        ("APPEND {}", 0, Announced(T, c.Append)),
        ("APPEND {} {}", 1, Announced(T, c.Append, "xyz")),
        ("UID REPLACE 1 a {}", 0, Announced(T, c.Replace, "a")),
        ("LOGIN {}", 0, Announced(T, c.Login)),
        ("SEARCH (OR FROM {}", 0, Announced(T, c.Search)),
        ("NOOP {}", 0, Malformed(T, "too many arguments")),
        ("APPEND a (x {}", 0, Malformed(T, "expected a flag")),
        ("APPEND a{}", 0, Malformed(T, "expected a space")),
        ("FOO {}", 0, Malformed(T, "unknown command")),
        ("{}", 0, Malformed(T, "expected a name")),
        ("SELECT ~{}", 0, Malformed(T, "too many arguments")),
    ],
)
def test_a_command_is_judged_before_its_literal(text: str, count: int, expected: object) -> None:
    assert parse_announced(b"a " + text.encode().replace(b"{}", b"\0"), [b"xyz"] * count) == expected


@pytest.mark.rfc("2971", "3.3")
def test_what_a_client_says_of_itself_is_cut_to_the_limits() -> None:
    assert of('ID ("' + "x" * 31 + '" "' + "y" * 1025 + '")') == c.Id(T, ((b"x" * 30, b"y" * 1024),))
    assert of("ID (" + " ".join(['"a" NIL'] * 31) + ")") == c.Id(T, ((b"a", None),) * 30)


# What is grammar and cannot be done


def test_names_that_cannot_be() -> None:
    for text in ("SELECT a&b", "SELECT &AGE-", 'LIST "" &*'):
        assert of(text).wire() == b"a NO [CANNOT] not modified UTF-7\r\n"
    assert of("CREATE {}", b"a\r\nb").wire() == b"a NO [CANNOT] control characters in a mailbox name\r\n"
    assert of("CREATE {}", "é".encode()).wire().startswith(b"a NO [CANNOT] ")
    assert of("CREATE {}", b"x" * 1001).wire() == b"a NO [CANNOT] mailbox name too long\r\n"


@pytest.mark.rfc("6855", "3")
def test_utf8_once_it_is_enabled() -> None:
    assert of('SELECT "Entwürfe"', utf8=True) == c.Select(T, "Entwürfe")
    assert of("SELECT &AOk-", utf8=True) == c.Select(T, "&AOk-")
    assert of("SELECT {}", "é".encode(), utf8=True) == c.Select(T, "é")
    assert of("SELECT Entwürfe", utf8=True).wire().startswith(b"a BAD ")
    assert of('SEARCH SUBJECT "é"', utf8=True) == c.Search(T, q.HeaderContains("Subject", "é"))
    assert parse(b"a SEARCH CHARSET UTF-8 ALL", is_utf8=True, forbids_charset=True) == Malformed(
        T, "no CHARSET after ENABLE UTF8=ACCEPT"
    )


@pytest.mark.rfc("9051", "6.4.4")
def test_charsets() -> None:
    assert of("SEARCH CHARSET iso-8859-1 TEXT {}", b"\xe9") == c.Search(T, q.TextContains("é"), charset="ISO-8859-1")
    assert of('SEARCH CHARSET "UTF-8" TEXT {}', "é".encode()) == c.Search(T, q.TextContains("é"), charset="UTF-8")
    assert of("SEARCH CHARSET iso-2022-jp TEXT {}", "日".encode("iso-2022-jp")).query == q.TextContains("日")
    cases = (
        ("SEARCH CHARSET FOO TEXT {}", b"x"),
        ("SEARCH CHARSET unicode_escape TEXT {}", b"x"),
        ("SEARCH TEXT {}", b"\xe9"),
        ("SEARCH CHARSET idna TEXT {}", b"x"),
        ("SEARCH CHARSET base64 TEXT {}", b"x"),
        ("SEARCH CHARSET UTF-8 TEXT {}", b"\xff"),
        ("SEARCH CHARSET UTF-7 TEXT {}", b"x"),
        ("SORT (SIZE) rot13 TEXT {}", b"x"),
        ("THREAD REFERENCES punycode TEXT {}", b"x"),
        ("SEARCH CHARSET undefined TEXT {}", b"x"),
        ('SEARCH CHARSET "" TEXT {}', b"x"),
        ('SEARCH CHARSET ".." TEXT {}', b"x"),
    )
    for text, raw in cases:
        assert of(text, raw).wire().startswith(b"a NO [BADCHARSET (US-ASCII UTF-8)] "), text


# Limits


def test_limits_of_what_is_said_in_one_command() -> None:
    def is_bad(text: str) -> bool:
        return isinstance(of(text), Malformed)

    for depth, bad in ((NESTING, False), (NESTING + 1, True)):
        assert is_bad("SEARCH " + "(" * depth + "ALL" + ")" * depth) == bad
        assert is_bad("SEARCH " + "NOT " * depth + "ALL") == bad
        assert is_bad("SEARCH " + "OR ALL " * depth + "ALL") == bad
        assert is_bad("SEARCH " + "FUZZY " * depth + "ALL") == bad
    for count, bad in ((SEARCH_KEYS, False), (SEARCH_KEYS + 1, True)):
        assert is_bad("SEARCH" + " ALL" * count) == bad
    for count, bad in ((LIST_ITEMS, False), (LIST_ITEMS + 1, True)):
        assert is_bad("FETCH 1 (" + " ".join(["UID"] * count) + ")") == bad
        assert is_bad("FETCH 1 BODY[HEADER.FIELDS (" + " ".join(["a"] * count) + ")]") == bad
        assert is_bad('LIST "" (' + " ".join(["a"] * count) + ")") == bad
        assert is_bad("ENABLE" + " X" * count) == bad
        assert is_bad("CANCELUPDATE" + ' "x"' * count) == bad
        assert is_bad("NOTIFY SET" + " (personal NONE)" * count) == bad
        assert is_bad("ESEARCH IN (" + " ".join(["inboxes"] * count) + ") ALL") == bad
    for count, bad in ((SET_RANGES, False), (SET_RANGES + 1, True)):
        assert is_bad("FETCH " + ",".join(["1"] * count) + " UID") == bad


@pytest.mark.parametrize(
    "text",
    [
        "FETCH " + ",".join(f"{n}:{n + 1}" for n in range(1, 100_001)) + " FLAGS",
        "FETCH 1 " + "(" * 100_000,
        "SEARCH " + "(" * 100_000,
        "SEARCH " + "NOT " * 50_000,
        "LOGIN " + '"' + "\\\\" * 100_000 + '" x',
        "STORE 1 FLAGS (" + "a " * 100_000 + "b)",
        'LIST "" ' + "*" * 900,
        "SELECT " + "&" * 900,
        "x" * 100_000,
        "LOGIN " + "x" * 200_000 + " y",
        "FETCH 1 BODY[" + "1." * 100_000 + "1]",
        "ID (" + '"x" NIL ' * 20_000 + '"x" NIL)',
    ],
    ids=lambda text: text[:20],
)
def test_what_is_long_is_read_in_linear_time(text: str) -> None:
    began = time.perf_counter()
    parse(b"a " + text.encode())
    assert time.perf_counter() - began < 1


def test_secrets_are_masked() -> None:
    assert "s3cret" not in repr(of("LOGIN alice s3cret"))
    assert "s3cret" not in repr(of("AUTHENTICATE PLAIN s3cret"))
    assert "s3cret" not in str(of("LOGIN alice s3cret x"))
