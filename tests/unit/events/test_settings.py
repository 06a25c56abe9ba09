"""What [events] may say, and what is said of what it may not."""

from __future__ import annotations

import pytest

from rusmes.config.diff import compare
from rusmes.config.load import parse_config
from rusmes.config.problems import all_problems
from rusmes.config.schema import Config
from rusmes.errors import ConfigError
from rusmes.server.privileges import check_chroot

HOOK = '[[events.webhook]]\nname = "hook"\nurl = "https://x.example/"\n'


def parse(text: str) -> Config:
    return parse_config(f'domain = "example.com"\n{text}', environ={}, base="/etc/rusmes")


def test_paths_and_secrets() -> None:
    copy = '[[events.file]]\nname = "a"\npath = "copy"\nformat = "csv"\n'
    config = parse(f'[events]\npath = "log"\n{HOOK}secret = "key"\n{copy}')
    assert config.events.path == "/etc/rusmes/log"
    assert config.events.file[0].path == "/etc/rusmes/copy"
    assert "key" not in repr(config.events)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[events]\nkinds = ["delivred"]\n', "events.kinds[0]"),
        ('[events]\nbuffer = "1KB"\n', "events.buffer"),
        ('[events]\nbuffer = "2GB"\n', "events.buffer"),
        ('[events]\nsegment_size = "8GB"\n', "events.segment_size"),
        ('[events]\nsegment_age = "0s"\n', "events.segment_age"),
        ('[[events.webhook]]\nname = "hook"\nurl = "ftp://x/"\n', "events.webhook[0].url"),
        ('[[events.webhook]]\nname = "hook"\nurl = "https://user:secret@x/"\n', "events.webhook[0].url"),
        ('[[events.webhook]]\nname = "../x"\nurl = "https://x/"\n', "events.webhook[0].name"),
        (f"{HOOK}{HOOK}", "events.webhook[1].name"),
        (f'{HOOK}timeout = "0s"\n', "events.webhook[0].timeout"),
        (f"{HOOK}batch_size = 0\n", "events.webhook[0].batch_size"),
        ('[[events.file]]\nname = "a"\npath = ""\n', "events.file[0].path"),
        ('[[events.file]]\nname = "a"\npath = "x"\ncolumns = ["typ"]\n', "events.file[0].columns[0]"),
    ],
)
def test_what_cannot_work_is_refused(text: str, key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert [problem.key for problem in all_problems(refused.value)] == [key]


def test_consumers_without_a_log_are_a_warning() -> None:
    assert any("events.enabled" in warning for warning in parse(f"[events]\nenabled = false\n{HOOK}").warnings)


def test_a_change_of_consumers_needs_no_restart_and_shows_no_secret() -> None:
    changes = compare(parse(HOOK), parse(f'{HOOK}secret = "key"\n'))
    assert [change.key for change in changes.applied] == ["events.webhook"]
    assert "key" not in str(changes.applied[0]).replace("webhook", "")
    assert [change.key for change in compare(parse(""), parse('[events]\npath = "x"\n')).restart] == ["events.path"]


def test_with_chroot_the_log_and_its_copies_lie_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    base = 'chroot = true\nruntime_dir = "/data/run"\n[storage]\npath = "/data"\n'
    check_chroot(parse(base))
    for more in ('[events]\npath = "/other"\n', '[[events.file]]\nname = "a"\npath = "/other/x"\n'):
        with pytest.raises(ConfigError, match="outside"):
            check_chroot(parse(base + more))
