"""The root command, and what becomes of an error."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click
import msgspec
from rich.console import Console
from rich.text import Text

from rusmes._version import __version__
from rusmes.cli.context import Context, JsonGroup, OperatorError, pass_context
from rusmes.cli.control import ServerRefused
from rusmes.cli.output import Output, printable
from rusmes.config.problems import all_problems, problem_line
from rusmes.errors import AlreadyExists, ConfigError, NotFound, RusmesError

STATUS_FAILED = 1
STATUS_OPERATOR = 2
_OPERATOR_ERRORS = (ConfigError, NotFound, AlreadyExists, OperatorError, ServerRefused)


COMMANDS: Final = {
    "init": ("setup", "init"),
    "check-config": ("check", "check_config"),
    "status": ("status", "status"),
    "user": ("accounts", "user"),
    "mailbox": ("accounts", "mailbox"),
    "domain": ("domains", "domain"),
    "dkim": ("dkim", "dkim"),
    "alias": ("domains", "alias"),
    "import": ("importing", "import_group"),
    "queue": ("queue_steering", "queue"),
    "shaping": ("shaping", "shaping"),
    "store": ("store", "store"),
    "why": ("why", "why"),
    "top": ("top", "top"),
    "suppression": ("suppression", "suppression"),
}
"""Module of this package and its object, by command; imported when called: the stores and the pipeline take half a second."""


class LazyGroup(JsonGroup):
    """The root, whose commands are those of COMMANDS and its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*COMMANDS, *super().list_commands(ctx)])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, name = COMMANDS[cmd_name]
        found: click.Command = getattr(importlib.import_module(f"rusmes.cli.{module}"), name)
        return found


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("-c", "--config", "config_path", metavar="FILE", help="The configuration [default: as the server looks for it].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True)
@click.version_option(__version__, prog_name="rusmes")
@click.pass_context
def root(context: click.Context, config_path: str | None, as_json: bool, color: str) -> None:
    """Operate a RusMES mail server, running or stopped."""
    context.obj = Context(config_path, Output(as_json=as_json, color=color))


@root.command("completions")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_context
def completions(context: Context, shell: str) -> None:
    """Print the completion script of a shell: `rusmes completions bash >> ~/.bashrc`."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(root, {}, "rusmes", "_RUSMES_COMPLETE").source()
    context.output.show({"shell": shell, "script": script}, lambda: click.echo(script))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run and exit; no error ends in a traceback but a defect of this program."""
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        result = root.main(args=arguments, prog_name="rusmes", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(result if isinstance(result, int) else 0)
    except click.UsageError as error:
        if as_json:
            _report_json(error.format_message(), [])
        else:
            error.show()
        sys.exit(STATUS_OPERATOR)
    except click.ClickException as error:
        _report(error.format_message(), "", as_json)
        sys.exit(STATUS_OPERATOR)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone (`rusmes queue list | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except RusmesError as error:
        if isinstance(error, ConfigError):
            _report_problems(error, as_json)
        else:
            _report(error.public, error.detail, as_json)
        sys.exit(STATUS_OPERATOR if isinstance(error, _OPERATOR_ERRORS) or type(error) is RusmesError else STATUS_FAILED)
    except OSError as error:
        way_out = "run this as the server's user, or as root" if isinstance(error, PermissionError) else ""
        _report(f"{error.filename or 'the system'}: {error.strerror or error}", way_out, as_json)
        sys.exit(STATUS_OPERATOR if isinstance(error, (FileNotFoundError, PermissionError)) else STATUS_FAILED)


def _report_problems(error: ConfigError, as_json: bool) -> None:
    # What several protocols share is found once for each of them.
    problems = list({problem_line(problem): problem for problem in all_problems(error)}.values())
    if as_json:
        _report_json(str(error), [problem_document(problem) for problem in problems])
        return
    for problem in problems:
        _report(problem.public, problem.hint, False)
    if len(problems) > 1:
        _report(f"{len(problems)} problems", "", False)


def problem_document(problem: ConfigError) -> dict[str, object]:
    """A problem of the configuration for programs."""
    return {
        "path": problem.path,
        "line": problem.line,
        "key": problem.key,
        "reason": problem.reason,
        "hint": problem.hint,
        "text": problem_line(problem),
    }


def _report(reason: str, way_out: str, as_json: bool) -> None:
    if as_json:
        _report_json(f"{reason} ({way_out})" if way_out else reason, [])
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    line = Text(printable(reason), style="bold red")
    if way_out:
        line.append(f"\n  {printable(way_out)}", style="not bold default")
    console.print(line)


def _report_json(reason: str, problems: list[dict[str, object]]) -> None:
    document = msgspec.json.format(msgspec.json.encode({"error": reason, "problems": problems}), indent=2)
    sys.stderr.buffer.write(document + b"\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()


if __name__ == "__main__":
    main()
