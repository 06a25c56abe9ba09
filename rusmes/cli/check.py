"""`rusmes check-config`: everything a start would do with the configuration, without touching anything."""

from __future__ import annotations

import click

from rusmes.cli.context import Context, JsonCommand, pass_context
from rusmes.config.load import load_config
from rusmes.server.check import check_all


@click.command("check-config", cls=JsonCommand)
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
