"""Everything a start would do with a configuration, without touching anything: `--check-config` and every reload."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from typing import Any, Final

from rusmes._core.counters import Metrics
from rusmes.auth.directory import DomainDirectory
from rusmes.auth.file import FileBackend
from rusmes.bounces.addresses import ReturnAddresses, secrets_of
from rusmes.bounces.classify import Classifier
from rusmes.clock import SystemClock
from rusmes.config.load import locate
from rusmes.config.problems import InvalidConfig, all_problems
from rusmes.config.schema import Config
from rusmes.errors import ConfigError, RusmesError
from rusmes.mailet.notary import Notary, check_keys
from rusmes.mailet.pipeline import Pipeline
from rusmes.mailet.registry import Registry
from rusmes.model.ids import IdSource
from rusmes.model.mail import Mail
from rusmes.model.plan import Refusal
from rusmes.server.build import SERVICES, toolbox_of
from rusmes.server.privileges import check_chroot, wanted_person
from rusmes.server.sockets import wanted
from rusmes.tls.context import ServerContext, self_signed_paths, server_context

MIN_TOKEN_CHARACTERS = 16
EXPIRY_WARNING: Final = datetime.timedelta(days=14)
"""ACME clients renew 30 days before the end; half of that later something is wrong."""


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

    backend = attempt(lambda: FileBackend.of(config))
    if backend is not None:
        returns = attempt(lambda: ReturnAddresses(config, secrets_of(config, create=False), SystemClock()))
        attempt(lambda: Classifier.load(config.returns.rules))
        directory = attempt(lambda: DomainDirectory(config, backend, returns))
        if directory is not None:
            pipeline = attempt(lambda: build_pipeline(config, directory, returns))
            warnings += pipeline.warnings if pipeline is not None else []
        backend.close()
    protocols = {protocol for protocol, *_ in wanted(config) if protocol in SERVICES}
    for protocol in sorted(protocols):
        settings = config.tls.for_protocol(protocol)
        if settings.cert_path or os.path.exists(self_signed_paths(config.storage.path)[0]):
            context = attempt(lambda settings=settings: server_context(settings, config.storage.path))  # type: ignore[misc]
            if context is not None:
                warnings += _age_of(context, settings.cert_path or self_signed_paths(config.storage.path)[0])
    if any(not config.tls.for_protocol(protocol).cert_path for protocol in protocols):
        warnings.append("[tls] names no certificate: a self-signed one is used")
    warnings += attempt(lambda: check_keys(config)) or []
    attempt(lambda: wanted_person(config))
    attempt(lambda: check_chroot(config))
    attempt(lambda: read_token(config))
    if problems:
        raise InvalidConfig(problems)
    return list(dict.fromkeys(warnings))  # protocols share certificates


def _age_of(context: ServerContext, path: str) -> list[str]:
    """A warning about a certificate that has ended or soon will."""
    left = context.expires - datetime.datetime.now(datetime.UTC)
    if left > EXPIRY_WARNING:
        return []
    how = "has expired on" if left < datetime.timedelta() else "expires on"
    return [f"the certificate {path} {how} {context.expires:%Y-%m-%d}: renew it and reload"]


def build_pipeline(config: Config, directory: DomainDirectory, returns: ReturnAddresses | None = None) -> Pipeline:
    """A pipeline through which no mail will run. Raises ConfigError."""
    toolbox = toolbox_of(config, directory, _NoNotices(), SystemClock(), IdSource(), Metrics())
    toolbox.returns = returns
    toolbox.notary = Notary(config)
    return Pipeline.build(config.processors, toolbox, Registry.load())


class _NoNotices:
    def failure(self, mail: Mail, recipients: Any, refusal: Refusal) -> Mail | None:
        return None

    def expanded(self, mail: Mail, recipients: Any) -> Mail | None:
        return None


def read_token(config: Config) -> str:
    """The bearer token of the administration API, "" when there is none.

    Raises:
        ConfigError: the file cannot be read, or its token is too short to be one.
    """
    path = config.admin.token_file
    if not path:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", key="admin.token_file") from None
    if len(token) < MIN_TOKEN_CHARACTERS or not token.isascii():
        raise ConfigError(
            f"{path} holds less than {MIN_TOKEN_CHARACTERS} ASCII characters",
            key="admin.token_file",
            hint="openssl rand -hex 32 makes one",
        )
    return token
