"""`rusmes check-config`: everything a start would do with the configuration, without touching anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from rusmes.auth.directory import DomainDirectory
from rusmes.auth.file import FileBackend
from rusmes.cli.context import Context, pass_context
from rusmes.clock import SystemClock
from rusmes.config.load import load_config, locate
from rusmes.config.problems import InvalidConfig, all_problems
from rusmes.config.schema import PROTOCOLS, Config
from rusmes.errors import ConfigError, RusmesError
from rusmes.mailet.api import Toolbox
from rusmes.mailet.pipeline import Pipeline
from rusmes.mailet.registry import Registry
from rusmes.model.ids import IdSource
from rusmes.model.mail import Mail
from rusmes.model.plan import Refusal
from rusmes.tls.context import server_context


@click.command("check-config")
@click.argument("file", required=False)
@pass_context
def check_config(context: Context, file: str | None) -> None:
    """Check a configuration, every matcher, mailet, certificate and account in it [default: the file of -c]."""
    config = load_config(file) if file else context.config
    warnings = check_all(config)
    data = {"path": config.path, "valid": True, "warnings": warnings}

    def for_people() -> None:
        for warning in warnings:
            context.output.say(f"warning: {warning}", "yellow")
        context.output.say(f"{config.path or 'The default configuration'} is valid.", "bold")

    context.output.show(data, for_people)


def check_all(config: Config) -> list[str]:
    """Build what a start builds; what is legal and probably not meant.

    Raises:
        InvalidConfig: with every problem.
    """
    problems: list[ConfigError] = []
    warnings = list(config.warnings)

    def attempt(build: Callable[[], Any]) -> Any:
        try:
            return build()
        except ConfigError as error:
            problems.extend(locate(problem, config.path) for problem in all_problems(error))
        except RusmesError as error:
            problems.append(ConfigError(str(error), path=config.path))
        return None

    backend = attempt(lambda: FileBackend(os.path.join(config.storage.path, config.auth.path)))
    if backend is not None:
        directory = attempt(lambda: DomainDirectory(config, backend))
        if directory is not None:
            pipeline = attempt(lambda: Pipeline.build(config.processors, _toolbox(config, directory), Registry.load()))
            warnings += pipeline.warnings if pipeline is not None else []
        backend.close()
    for protocol in PROTOCOLS:
        tls = config.tls.for_protocol(protocol)
        if tls.cert_path and (protocol == "smtp" or getattr(config.tls, protocol) is not None):
            attempt(lambda tls=tls: server_context(tls, config.storage.path))  # type: ignore[misc]
    if not config.tls.cert_path:
        warnings.append("[tls] names no certificate: a self-signed one is used")
    attempt(lambda: _check_token(config))
    if problems:
        raise InvalidConfig(problems)
    return warnings


def _toolbox(config: Config, directory: DomainDirectory) -> Toolbox:
    return Toolbox(
        directory=directory,
        clock=SystemClock(),
        notices=_NoNotices(),
        new_id=IdSource().next_id,
        hostname=config.hostname or "localhost",
        postmaster=config.postmaster_address,
        relay_networks=config.security.relay_networks,
        count=lambda _event: None,
        recipient_delimiter=config.domains.recipient_delimiter,
    )


class _NoNotices:
    """No mail runs through this pipeline, so nobody is told of anything."""

    def failure(self, mail: Mail, recipients: Any, refusal: Refusal) -> Mail | None:
        return None

    def expanded(self, mail: Mail, recipients: Any) -> Mail | None:
        return None


def _check_token(config: Config) -> None:
    path = config.admin.token_file
    if not path:
        return
    try:
        with open(path, encoding="utf-8") as file:
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", key="admin.token_file") from None
    if len(token) < 16:
        raise ConfigError(
            f"{path} holds less than 16 characters", key="admin.token_file", hint="openssl rand -hex 32 makes one"
        )
