"""From a file and the environment to a checked Config, or to all of its problems at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import tomli
from msgspec.structs import replace

from rusmes.config.checks import check
from rusmes.config.convert import convert_table
from rusmes.config.environment import apply_environment
from rusmes.config.positions import key_lines, line_of
from rusmes.config.predecessor import REPLACED_VARIABLES, translate
from rusmes.config.problems import Collector, InvalidConfig, KeyPath, dotted
from rusmes.config.schema import NOT_KEYS, Config, LogFile, Tls, TlsOverride
from rusmes.config.shaping import load_shaping
from rusmes.errors import ConfigError

PLACES: Final = ("rusmes.toml", "/etc/rusmes/rusmes.toml")
WITHOUT_FILE: Final = {
    "domain": "localhost",
    "runtime_dir": "rusmes-data/run",
    "storage": {"path": "rusmes-data"},
}
"""What the server starts on when no file is found: this user's directory, no privileges."""
MAX_FILE_BYTES: Final = 16 << 20
"""A configuration of a thousand domains with a hundred aliases each has 5 MB."""


def find_config(path: str | None, environ: Mapping[str, str]) -> str | None:
    """The file to read: the given one, $RUSMES_CONFIG, ./rusmes.toml, /etc/rusmes/rusmes.toml; None when there is none."""
    named = path or environ.get("RUSMES_CONFIG")
    if named:
        return named
    return next((place for place in PLACES if os.path.exists(place)), None)


def load_config(path: str | None = None, *, environ: Mapping[str, str] | None = None) -> Config:
    """Read, override, check. `path` None looks in the usual places and ends at the defaults; `environ` None is os.environ.

    Raises:
        InvalidConfig: with every problem that was found.
        ConfigError: the file cannot be read, or is no TOML.
    """
    environ = os.environ if environ is None else environ
    found = find_config(path, environ)
    if found is None:
        return parse_config("", environ=environ, base=os.getcwd(), raw=_copy(WITHOUT_FILE))
    return parse_config(_read(found), environ=environ, path=found)


def parse_config(
    text: str, *, environ: Mapping[str, str], path: str = "", base: str = "", raw: dict[str, Any] | None = None
) -> Config:
    """A Config from TOML text. `base` is where relative paths start; "" = the directory of `path`.

    Raises:
        InvalidConfig, ConfigError: as `load_config`.
    """
    problems = Collector()
    if raw is None:
        raw = _parse(text, path)
    origin = apply_environment(raw, environ, problems)
    moved = translate(raw, problems)
    base = base or os.path.dirname(os.path.abspath(path))
    config = convert_table(
        Config, raw, (), problems, hidden=NOT_KEYS, read_secret=lambda name: _read_secret(os.path.join(base, name))
    )
    assert isinstance(config, Config)  # no key of Config is required
    config = _absolute(config, base)
    entries, skipped = load_shaping(config.delivery, config.egress)
    config = check(replace(config, shaping=entries, shaping_problems=skipped), raw, problems)
    if problems.found:
        raise InvalidConfig(_located(problems, text, path, origin, moved))
    return replace(config, path=os.path.abspath(path) if path else "", warnings=tuple(problems.warnings))


def locate(error: ConfigError, path: str) -> ConfigError:
    """An error of somebody who built something from the configuration, with file and line of the key it names."""
    if error.path or not path:
        return error
    lines = {dotted(key): line for key, line in key_lines(_read(path).replace("\r\n", "\n")).items()}
    key = error.key.replace('"', "'")
    while key and key not in lines:
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
    return ConfigError(error.reason, key=error.key, path=path, line=lines.get(key, 0), hint=error.hint)


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        hint = "rusmes init writes one"
        raise ConfigError("the file does not exist", path=path, hint=hint) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {getattr(error, 'strerror', None) or error}", path=path) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"is larger than {MAX_FILE_BYTES >> 20} MB", path=path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError("is not UTF-8", path=path, line=line, hint="save it as UTF-8") from None


def _parse(text: str, path: str) -> dict[str, Any]:
    try:
        return tomli.loads(text.replace("\r\n", "\n"))
    except tomli.TOMLDecodeError as error:
        reason = error.msg[:1].lower() + error.msg[1:]
        raise ConfigError(f"is no TOML: {reason}", path=path, line=error.lineno, hint=f"column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        # Nested too deep, or a number or date that no value can hold.
        raise ConfigError(f"is no TOML this server can hold: {error}", path=path) from None


def _read_secret(name: str) -> str:
    secret = Path(name).read_text(encoding="utf-8").strip("\r\n")
    if not secret:
        raise ValueError("the file is empty")
    if any(char < " " or char == "\x7f" for char in secret):
        raise ValueError("the file holds more than one line")
    return secret


def _absolute(config: Config, base: str) -> Config:
    """Every path made absolute; relative ones start at `base`."""

    def full(path: str) -> str:
        return os.path.normpath(os.path.join(base, path)) if path else path

    def pair(tls: Any) -> dict[str, Any]:
        return {
            key: full(getattr(tls, key)) for key in ("cert_path", "key_path", "client_ca_path") if getattr(tls, key) is not None
        }

    tls: Tls = replace(config.tls, **pair(config.tls))
    overrides = {
        name: replace(own, **pair(own)) for name in Tls.__struct_fields__ if isinstance(own := getattr(tls, name), TlsOverride)
    }
    file: LogFile = replace(config.logging.file, path=full(config.logging.file.path))
    return replace(
        config,
        runtime_dir=full(config.runtime_dir),
        lmtp=replace(config.lmtp, path=full(config.lmtp.path)),
        tls=replace(tls, **overrides),
        storage=replace(config.storage, path=full(config.storage.path)),
        logging=replace(config.logging, file=file),
        admin=replace(config.admin, token_file=full(config.admin.token_file)),
        delivery=replace(config.delivery, shaping_files=tuple(map(full, config.delivery.shaping_files))),
        returns=replace(config.returns, rules=tuple(map(full, config.returns.rules))),
        dkim=replace(config.dkim, key=tuple(replace(one, path=full(one.path)) for one in config.dkim.key)),
        events=replace(
            config.events,
            path=full(config.events.path),
            file=tuple(replace(one, path=full(one.path)) for one in config.events.file),
        ),
    )


def _located(
    problems: Collector, text: str, path: str, origin: dict[tuple[str, ...], str], moved: dict[KeyPath, KeyPath]
) -> list[ConfigError]:
    """The problems with their lines, in the order of the file; those of variables first."""
    lines = key_lines(text.replace("\r\n", "\n"))
    located = []
    for key_path, reason, hint in problems.found:
        variable = _variable(key_path, origin)
        if variable:
            located.append(ConfigError(reason, key=variable, hint=REPLACED_VARIABLES.get(variable, hint)))
            continue
        written = moved.get(key_path, key_path)
        located.append(ConfigError(reason, key=dotted(written), path=path, line=line_of(written, lines), hint=hint))
    return sorted(located, key=lambda problem: problem.line)


def _variable(path: KeyPath, origin: dict[tuple[str, ...], str]) -> str:
    """The variable that set a value, "" when it came from the file."""
    if len(path) == 1 and isinstance(path[0], str) and path[0].startswith("RUSMES_"):
        return path[0]
    return next((name for set_path, name in origin.items() if path[: len(set_path)] == set_path), "")


def _copy(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in table.items()}
