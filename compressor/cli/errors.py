"""Errors as people see them: what is wrong and what to do, with the documented exit codes."""

from __future__ import annotations

import sys
from typing import Any

import click

from compressor.errors import CompressorError

INTERRUPTED = 130


class ErrorsForPeople(click.Group):
    """Prints the tool's own errors without a traceback and leaves with their exit code; a bug keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CompressorError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            resumes = "; the same command goes on from the last checkpoint" if ctx.invoked_subcommand == "run" else ""
            click.echo(f"\ninterrupted{resumes}", err=True)
            sys.exit(INTERRUPTED)
