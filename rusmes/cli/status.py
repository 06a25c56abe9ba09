"""`rusmes status`: what the running server says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import click

from rusmes.cli.context import Context, JsonCommand, pass_context
from rusmes.config.units import duration_text

STATUS_NOT_RUNNING: Final = 3  # as LSB init scripts say "program is not running"


@click.command("status", cls=JsonCommand)
@pass_context
def status(context: Context) -> int:
    """Show a running server's processes, listeners, queue and store; exit status 3 when there is none."""
    if not context.is_running:
        data = {"running": False, "config": context.config.path, "control_socket": context.control.path}
        context.output.show(data, lambda: context.output.say(f"No server answers on {context.control.path}."))
        return STATUS_NOT_RUNNING
    answer = context.control.get("/status")
    data = {"running": True} | answer
    context.output.show(data, lambda: _tell(context, answer))
    return 0


def _tell(context: Context, answer: dict[str, Any]) -> None:
    """Scalars as names and values, lists of tables as tables, whatever the server has to say."""
    tables = {name: value for name, value in answer.items() if isinstance(value, list) and value and isinstance(value[0], dict)}
    context.output.facts(_scalars({name: value for name, value in answer.items() if name not in tables}, ""))
    for name, rows in tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        context.output.say(f"\n{_words(name)}", "bold")
        context.output.table(
            [_heading(column, rows) for column in columns],
            [[_shown(column, row.get(column, "")) for column in columns] for row in rows],
            empty="",
        )


def _scalars(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        label = f"{prefix}{_words(name)}"
        if isinstance(value, dict):
            yield from _scalars(value, f"{label}: ")
        elif isinstance(value, list):
            yield label, ", ".join(str(item) for item in value) or "none"
        else:
            yield label, _shown(name, value)


def _heading(column: str, rows: list[dict[str, Any]]) -> str:
    is_number = all(isinstance(row.get(column), (int, float)) and not isinstance(row.get(column), bool) for row in rows)
    return f"{'#' if is_number else ''}{_words(column).upper()}"


def _words(name: str) -> str:
    return name.removesuffix("_seconds").replace("_", " ").capitalize()


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_seconds") and isinstance(value, (int, float)):
        return duration_text(float(value))
    return str(value)
