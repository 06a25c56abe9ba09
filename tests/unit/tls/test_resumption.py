"""Sessions that are kept and offered; over real sockets in tests/e2e/test_mta_sts.py."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import Any

import pytest

from rusmes.tls import resumption
from rusmes.tls.context import client_context


def session(**values: Any) -> SimpleNamespace:
    """What an SSL object says of its session."""
    return SimpleNamespace(session=SimpleNamespace(**{"has_ticket": True, "ticket_lifetime_hint": 7200, **values}))


def test_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "MAX_SESSIONS", 2)
    context = client_context(verify=False)
    context.remember("none.org", SimpleNamespace(session=None))
    context.remember("id.org", session(has_ticket=False))
    assert not context.sessions
    for host in ("a.org", "b.org", "c.org"):
        context.remember(host, session())
    assert list(context.sessions) == ["b.org", "c.org"]
    assert context.forget("b.org")
    assert not context.forget("b.org")


def test_sessions_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    context = client_context(verify=False)
    context.remember("short.org", session(ticket_lifetime_hint=60))
    context.remember("long.org", session())
    context.remember("silent.org", session(ticket_lifetime_hint=0))
    assert context._session("short.org") is not None
    now += 61
    assert context._session("short.org") is None
    assert context._session("long.org") is not None
    assert context._session("silent.org") is not None
    now += resumption.SESSION_SECONDS
    assert context._session("long.org") is None
    assert not {"short.org", "long.org"} & set(context.sessions)


def test_a_context_without_sessions_is_one_like_any_other() -> None:
    context = client_context(verify=True)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    made = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a.org")
    assert made.session is None or not made.session_reused
    unverified = client_context(verify=False)
    assert (unverified.verify_mode, unverified.check_hostname) == (ssl.CERT_NONE, False)
