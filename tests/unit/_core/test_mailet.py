"""The parts of the dispatch loop that stand alone: header scans against a plain reading of RFC 5322, forks, Return-Path."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes._core import mailet as core
from rusmes.model.address import Address
from rusmes.model.content import Content
from rusmes.model.mail import Mail, Origin, Recipient

lines = st.lists(
    st.sampled_from(
        [b"Received: a\r\n", b"received : b\r\n", b" folded\r\n", b"\tfolded\r\n", b"Receivedx: no\r\n", b"X: Received: no\r\n",
         b"RECEIVED:c\n", b"Received\r\n", b"received  \t:d\r\n", b"\r\n", b"Rec\r\n", b"Received: end", b"\xff: x\r\n"]
    )
).map(b"".join)  # fmt: skip


def fields(block: bytes) -> list[bytes]:
    """The fields of a header block with their continuation lines, up to the empty line."""
    found: list[bytes] = []
    for line in re.findall(rb"[^\n]*\n|[^\n]+", block):
        if line.startswith((b" ", b"\t")) and found:
            found[-1] += line
        elif line.startswith((b"\r", b"\n")):
            break
        else:
            found.append(line)
    return found


def is_named(field: bytes, name: bytes) -> bool:
    return re.match(rb"(?i:" + re.escape(name) + rb")[ \t]*:", field) is not None


@given(st.one_of(lines, st.binary(max_size=200)), st.sampled_from([b"received", b"x", b"rec"]))
def test_header_scans_agree_with_a_plain_reading(block: bytes, name: bytes) -> None:
    mine = [field for field in fields(block) if is_named(field, name)]
    assert core.count_fields(block, name) == len(mine)
    assert core.find_fields(block, name) == [field.partition(b":")[2].rstrip(b"\r\n").lstrip(b" \t") for field in mine]
    rest = block[sum(map(len, fields(block))) :]
    assert core.remove_fields(block, [name]) == b"".join(f for f in fields(block) if not is_named(f, name)) + rest
    content = Content(b"", len(block) + 20, len(block), data=block + b"received: of the body")
    assert core.count_in(content, name) == len(mine)


def test_removing_nothing_gives_the_same_object() -> None:
    block = b"A: 1\r\n\r\n"
    assert core.remove_fields(block, [b"b", b"c"]) is block
    assert core.remove_fields(block, []) is block


@given(st.text(max_size=12), st.sampled_from(["x.org", "xn--a.org", "[192.0.2.1]", "[IPv6:::1]", "", "UPPER.org"]))
def test_return_path_is_what_the_address_writes(local: str, domain: str) -> None:
    address = Address(local, domain)
    text = f"Return-Path: <{address}>\r\n"
    if "\ud800" <= max(local, default="") <= "\udfff":
        return
    if set(local) & set("\r\n\0"):
        with pytest.raises(ValueError, match="line ends"):
            core.return_path(address)
    else:
        assert core.return_path(address) == text.encode()


def test_return_path_of_nobody() -> None:
    assert core.return_path(None) == b"Return-Path: <>\r\n"


def mail(*recipients: Recipient) -> Mail:
    content = Content(b"", 0, 0, data=b"")
    return Mail(b"", None, list(recipients), content, Origin(), created=0.0)


def test_fork_shares_the_content_and_nothing_that_changes() -> None:
    one, two = (Recipient(Address(name, "x.org")) for name in "ab")
    whole = mail(one, two)
    whole.attributes["a"] = 1
    whole.prepended.append(b"A: 1\r\n")
    whole.per_recipient = {one.address: (b"B: 1\r\n",), two.address: (b"B: 2\r\n",)}
    part = core.fork(whole, [two])
    part.attributes["b"] = 2
    part.prepended.append(b"C: 1\r\n")
    assert (whole.attributes, whole.prepended) == ({"a": 1}, [b"A: 1\r\n"])
    assert part.content is whole.content
    assert part.per_recipient == {two.address: (b"B: 2\r\n",)}
    for name in Mail.__slots__:
        assert hasattr(part, name)


def test_everyone_is_one_object() -> None:
    from rusmes.mailet.api import EVERYONE, NOBODY

    assert EVERYONE is core.EVERYONE
    assert repr(EVERYONE) == "EVERYONE"
    assert not NOBODY


@pytest.mark.parametrize(
    ("matcher", "matches"),
    [
        (core.LargerThan(0), False), (core.MoreRecipientsThan(0), True), (core.MoreRecipientsThan(1), False),
        (core.NullSender(), True), (core.LoggedIn(), False), (core.AttributePresent("a"), False),
        (core.MoreReceivedThan(0), False),
    ],
)  # fmt: skip
def test_fast_matchers_answer_python_too(matcher: Any, matches: bool) -> None:
    assert (matcher.match(mail(Recipient(Address("a", "x.org")))) is core.EVERYONE) is matches


def test_the_root_of_fast_matchers_answers_nothing() -> None:
    with pytest.raises(NotImplementedError):
        core.FastMatcher().match(mail())


def test_a_step_of_a_python_subclass_that_overrides_match_is_asked() -> None:
    class Never(core.NullSender):
        def match(self, mail: Any) -> Any:
            return ()

    class Fails:
        def service(self, mail: Any) -> Any:
            raise AssertionError("it did not match")

    class Settlement:
        def undecided(self, mail: Any) -> None:
            undecided.append(mail)

    undecided: list[Any] = []
    step = core.Step("root", 0, "Never=>Fails", Never(), Fails())
    journey = core.Journey({"root": [step]}, Settlement(), object(), int, False, 0.0)  # type: ignore[arg-type]
    journey.enter(mail(Recipient(Address("a", "x.org"))))
    assert journey.advance() is None
    assert len(undecided) == 1
