"""The base subject (RFC 5256 §2.1)."""

from __future__ import annotations

import time

import pytest

from rusmes.search.subject import base_subject


@pytest.mark.rfc("5256", "2.1")
@pytest.mark.parametrize(
    ("subject", "base", "is_reply"),
    [
        ("", "", False),
        ("hello", "hello", False),
        ("Re: hello", "hello", True),
        ("RE:hello", "hello", True),
        ("re : hello", "hello", True),
        ("Fw: hello", "hello", True),
        ("FWD: hello", "hello", True),
        ("fwdd: hello", "fwdd: hello", False),
        ("Re: Re: Fwd: hello", "hello", True),
        ("[list] hello", "hello", False),
        ("[list] Re: hello", "hello", True),
        ("Re: [list] hello", "hello", True),
        ("Re[2]: hello", "hello", True),
        ("Re [2] : hello", "hello", True),
        ("[a][b] [c] hello", "hello", False),
        ("[a] [b] re: [c] fw: hello", "hello", True),
        ("[list]", "[list]", False),
        ("[a] [b]", "[b]", False),
        ("Re: [list]", "[list]", True),
        ("hello (fwd)", "hello", True),
        ("hello (FWD) (fwd)  ", "hello", True),
        ("[fwd: hello]", "hello", True),
        ("[Fwd: Re: [x] hello (fwd)]", "hello", True),
        ("Re: [fwd: hello]", "hello", True),
        ("[fwd: [fwd: hello]]", "hello", True),
        ("[fwd: hello", "[fwd: hello", False),
        ("  a \t b\r\n c ", "a b c", False),
        ("re", "re", False),
        ("Re:", "", True),
        ("(fwd)", "", True),
        ("[fwd:]", "", True),
        ("a [b] c", "a [b] c", False),
        ("[a[b] c", "[a[b] c", False),
        ("Reply: x", "Reply: x", False),
        ("[a]re: x", "x", True),
        ("[]x", "x", False),
        ("=?utf-8?q?Re=3A_caf=C3=A9?=", "caf\u00e9", True),
        ("AW: hello", "AW: hello", False),
    ],
)
def test_examples(subject: str, base: str, is_reply: bool) -> None:
    assert base_subject(subject.encode()) == (base, is_reply)


@pytest.mark.parametrize(
    "subject",
    [
        b"[a]" * 100_000,
        b"re:" * 100_000,
        b"[" * 300_000,
        b"(fwd)" * 60_000,
        b"[fwd:" * 50_000 + b"]" * 50_000,
        b"re [" * 70_000,
        b" " * 300_000,
        b"[a] " * 70_000 + b"re x",
    ],
)
def test_subjects_made_to_be_slow(subject: bytes) -> None:
    begin = time.process_time()
    base_subject(subject)
    assert time.process_time() - begin < 0.5
