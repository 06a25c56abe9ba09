"""The pipeline of a configuration without [[processors]]."""

from __future__ import annotations

from typing import Any

import pytest

from rusmes.model.plan import Refusal


def test_local_recipient_gets_the_mail_with_return_path_on_top(kit: Any) -> None:
    plan = kit.run(None, kit.mail("alice@here.org"))
    (append,) = plan.appends
    assert (append.account, append.mailbox) == ("alice@here.org", "INBOX")
    assert b"".join(append.rendering.chunks()).startswith(b"Return-Path: <sam@elsewhere.org>\r\nReceived: by mx.here")
    assert (plan.queued, plan.refused, plan.dropped) == ([], {}, [])


def test_stranger_may_not_relay(kit: Any) -> None:
    plan = kit.run(None, kit.mail("x@far.org"))
    assert list(plan.refused.values()) == [Refusal(550, "5.7.1", "relaying denied")]
    assert (plan.appends, plan.queued) == ([], [])


def test_trusted_client_relays_and_delivers_in_one_plan(kit: Any) -> None:
    plan = kit.run(None, kit.mail("x@far.org", "bob@here.org", "y@far.org", trusted=True))
    assert [append.account for append in plan.appends] == ["bob@here.org"]
    (row,) = plan.queued
    assert row.action == "relay"
    assert [str(recipient.address) for recipient in row.recipients] == ["x@far.org", "y@far.org"]
    assert (row.rendering.prefix, row.rendering.skip) == (b"", 0), "relayed mail is byte for byte what came"
    assert row.rendering.content is plan.appends[0].rendering.content


@pytest.mark.rfc("5321", "6.3")
@pytest.mark.parametrize(("hops", "refused"), [(50, False), (51, True)])
def test_relay_limit(kit: Any, hops: int, refused: bool) -> None:
    plan = kit.run(None, kit.mail(body=b"Received: x\r\n" * hops + b"\r\n"))
    assert bool(plan.refused) is refused
    assert bool(plan.appends) is not refused
    if refused:
        assert next(iter(plan.refused.values())) == Refusal(554, "5.4.6", "too many hops")


def test_unknown_local_user_is_refused_and_never_relayed(kit: Any) -> None:
    plan = kit.run(None, kit.mail("nobody@here.org", trusted=True))
    assert next(iter(plan.refused.values())).status == "5.1.1"
    assert not plan.queued


def test_it_has_no_warnings(kit: Any) -> None:
    assert kit.build().warnings == []
