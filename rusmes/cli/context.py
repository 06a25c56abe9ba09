"""What all commands share: the configuration they mean, how they print, and how they run coroutines."""

from __future__ import annotations

import asyncio
import getpass
import os
import pwd
import sys
from collections.abc import Coroutine
from functools import cached_property
from typing import Any, TypeVar

import click

from rusmes.cli.control import ControlSocket, ServerFailed, ServerRefused
from rusmes.cli.output import Output
from rusmes.config.load import load_config
from rusmes.config.problems import nearest
from rusmes.config.schema import Config
from rusmes.errors import RusmesError
from rusmes.server.places import CONTROL_NAME, runtime_dir_of

T = TypeVar("T")


class OperatorError(RusmesError):
    """What was typed cannot be done; `detail` is the way out."""


class Context:
    """One run of the program; click hands it to every command."""

    def __init__(self, config_path: str | None, output: Output) -> None:
        self.config_path = config_path
        self.output = output

    @cached_property
    def config(self) -> Config:
        """The configuration of the server that is meant.

        Raises:
            ConfigError
        """
        return load_config(self.config_path)

    @property
    def config_file(self) -> str:
        """The file behind the configuration.

        Raises:
            OperatorError: there is none, so nothing can be changed in it.
        """
        if not self.config.path:
            raise OperatorError("there is no configuration file", "name one with -c FILE; `rusmes init` writes one")
        return self.config.path

    @cached_property
    def control(self) -> ControlSocket:
        return ControlSocket(os.path.join(runtime_dir_of(self.config), CONTROL_NAME))

    @cached_property
    def is_running(self) -> bool:
        return self.control.is_answered()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run(work)

    def reload(self) -> str:
        """Tell a running server to read the changed file; the sentence about it. Raises ServerFailed, ServerRefused."""
        if not self.is_running:
            return "It takes effect when the server starts."
        try:
            self.control.post("/reload")
        except (ServerFailed, ServerRefused) as error:
            raise type(error)("the file is changed, and the running server does not use it", error.public) from None
        return "The running server uses it now."


pass_context = click.make_pass_decorator(Context)


class JsonCommand(click.Command):
    """A command that also understands --json behind its name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--json"],
                is_flag=True,
                expose_value=False,
                is_eager=True,
                callback=_turn_json_on,
                help="Print one JSON document.",
            )
        )


class JsonGroup(click.Group):
    command_class = JsonCommand
    group_class = type

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """With the nearest command where there is none of that name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            names = self.list_commands(ctx)
            hint = nearest(args[0], names) or f"see {ctx.command_path} --help"
            raise click.UsageError(f"{error.message.rstrip('.')} ({hint})", ctx) from None


def _turn_json_on(context: click.Context, _option: click.Parameter, value: bool) -> None:
    found = context.find_object(Context)
    if value and found is not None:
        found.output.as_json = True


def read_password(from_stdin: bool, prompt: str = "Password") -> str:
    """A password from standard input (its first line), or typed twice.

    Raises:
        OperatorError: there is no terminal to ask on, the two differ, or it is empty.
    """
    if from_stdin:
        password = sys.stdin.buffer.readline(4096).decode("utf-8", "strict").rstrip("\r\n")
    elif not sys.stdin.isatty():
        raise OperatorError("there is no terminal to ask for the password on", "use --password-stdin")
    else:
        password = getpass.getpass(f"{prompt}: ")
        if password != getpass.getpass("Once more: "):
            raise OperatorError("the two passwords differ", "nothing was changed; try again")
    if not password:
        raise OperatorError("the password is empty", "nothing was changed")
    return password


def confirm(question: str, yes: bool) -> None:
    """Ask before something is lost.

    Raises:
        OperatorError: without a terminal and without --yes.
        click.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise OperatorError("this needs a confirmation", "add --yes")
    click.confirm(question, abort=True)


def give_to_server_user(config: Config, *paths: str) -> None:
    """Hand files that root has just made to the user the server runs as."""
    if os.geteuid() != 0 or not config.run_as_user:
        return
    try:
        user = pwd.getpwnam(config.run_as_user)
    except KeyError:
        raise OperatorError(f"the user {config.run_as_user} of run_as_user does not exist", "create it first") from None
    for path in paths:
        if os.path.lexists(path):
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
