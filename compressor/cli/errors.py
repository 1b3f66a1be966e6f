"""Errors as people see them: what is wrong and what to do, with the documented exit codes."""

from __future__ import annotations

import sys
from typing import Any

import click

from compressor.errors import CompressorError

INTERRUPTED = 130
RESUMED = {
    "run": "; the same command goes on from the last checkpoint",
    "sweep": "; the same command goes on with the rest",
}
"""How commands that can be interrupted go on."""


class ErrorsForPeople(click.Group):
    """Prints the tool's own errors without a traceback and leaves with their exit code; a bug keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CompressorError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo(f"\ninterrupted{RESUMED.get(ctx.invoked_subcommand or '', '')}", err=True)
            sys.exit(INTERRUPTED)
