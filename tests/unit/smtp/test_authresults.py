"""Whose an Authentication-Results field is; RFC 8601 §2.2, §5."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rusmes.smtp.authresults import foreign_results, service_of

OWN = frozenset({"mx.example.com"})


@pytest.mark.parametrize(
    ("value", "service"),
    [
        (b" mx.example.com; none", "mx.example.com"),
        (b" MX.Example.COM 1; spf=pass", "mx.example.com"),
        (b" mx.example.com", "mx.example.com"),
        (b" mx.example.com/1; spf=pass", "mx.example.com"),
        (b" mx.example.com.;", "mx.example.com"),
        (b"\r\n\tmx.example.com ;\r\n dkim=pass", "mx.example.com"),
        (b" (a (nested\\) ; comment)) mx.example.com (x); none", "mx.example.com"),
        (b' "mx.example.com" (x); none', "mx.example.com"),
        (b' "mx\\.example.com"; none', "mx.example.com"),
        (b" other.example; mx.example.com", "other.example"),
        (b" (mx.example.com) other.example; none", "other.example"),
        (b" (never ends mx.example.com; none", ""),
        (b' "never ends', "never ends"),
        (b"", ""),
        (b"\xff\xfe; none", "��"),
    ],
)
def test_service(value: bytes, service: str) -> None:
    assert service_of(value) == service


def test_only_ours_are_found() -> None:
    ours = b"Authentication-Results: mx.example.com; spf=pass\r\n"
    other = b"authentication-results : other.example;\r\n\tdkim=pass (mx.example.com)\r\n"
    plain = b"Received: x\r\nSubject: Authentication-Results: mx.example.com\r\n"
    assert foreign_results(plain + b"\r\n", OWN) is None
    assert foreign_results(plain + other + b"\r\n", OWN) is None
    assert foreign_results(plain + ours + b"\r\n", OWN) == []
    assert foreign_results(ours + plain + other + ours + other + b"\r\n", OWN) == [other, other]
    assert foreign_results(plain + b"\r\n" + ours, OWN) is None  # the body is not a header


@given(st.binary(max_size=200))
def test_any_value_is_read(value: bytes) -> None:
    block = b"Authentication-Results:" + value.replace(b"\r", b"").replace(b"\n", b"") + b"\r\n\r\n"
    foreign_results(block, OWN)
    service_of(value)


@given(st.lists(st.sampled_from(['"', "\\", "(", ")", ";", " ", "a", "mx.example.com", "\r\n "]), max_size=30))
def test_any_grammar_is_read(words: list[str]) -> None:
    assert "\n" not in service_of("".join(words).encode())
