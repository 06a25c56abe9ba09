"""Which changes a reload applies, and which need a restart."""

from __future__ import annotations

from rusmes.config.diff import NEEDS_RESTART, compare
from rusmes.config.load import parse_config
from rusmes.config.schema import Config

DOMAIN = 'domain = "example.com"\n'


def config(text: str) -> Config:
    return parse_config(DOMAIN + text, environ={}, base="/etc/rusmes")


def test_equal_files_have_no_changes() -> None:
    changes = compare(config("[smtp]\nport = 25"), config("# other text\n[smtp]\nport = 25"))
    assert (changes.applied, changes.restart) == ((), ())


def test_changes_are_sorted_by_what_they_need() -> None:
    changes = compare(
        config(""),
        config(
            """
            [smtp]
            port = 25
            max_recipients = 10
            command_timeout = "1m"
            [smtp.rate_limit]
            max_messages_per_hour = 5
            [storage]
            path = "/elsewhere"
            [domains]
            aliases = { "a@example.com" = "b@example.com" }
            [tls.smtp]
            min_version = "1.3"
            [logging]
            level = "debug"
            format = "json"
            """
        ),
    )
    assert {change.key for change in changes.restart} == {"smtp.port", "storage.path", "logging.format"}
    assert {change.key for change in changes.applied} == {
        "smtp.max_recipients",
        "smtp.command_timeout",
        "smtp.rate_limit.max_messages_per_hour",
        "domains.aliases",
        "tls.smtp",
        "logging.level",
    }
    shown = {change.key: str(change) for change in (*changes.applied, *changes.restart)}
    assert shown["smtp.command_timeout"] == "smtp.command_timeout: 5m -> 1m"
    assert shown["storage.path"] == 'storage.path: "/var/lib/rusmes" -> "/elsewhere"'


def test_secrets_do_not_show() -> None:
    changes = compare(config("[relay]\npassword = 'hunter2'"), config("[relay]\npassword = 'swordfish'"))
    assert [str(change) for change in changes.applied] == ["relay.password: *** -> ***"]


def test_every_key_that_needs_a_restart_exists() -> None:
    for key in NEEDS_RESTART:
        value: object = Config()
        for part in key.split("."):
            if key.endswith((".tls_port", ".path")) and not hasattr(value, part):
                break  # a protocol without that port
            value = getattr(value, part)
