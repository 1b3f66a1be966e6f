"""`compress completion`, and what shells complete where click does not know of files."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

COMMAND, VARIABLE = "compress", "_COMPRESS_COMPLETE"


def files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Have the shell complete the name of a file; for what may be a `package://` path, which is no `click.Path`."""
    return [CompletionItem(incomplete, type="file")]


def folders(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Have the shell complete the name of a folder."""
    return [CompletionItem(incomplete, type="dir")]


def completion_script(command: click.Command, shell: str) -> str:
    """Return the script that a shell runs to complete the command.

    Raises:
        KeyError: click knows no such shell.
    """
    found = get_completion_class(shell)
    if found is None:
        raise KeyError(shell)
    completer = found(command, {}, COMMAND, VARIABLE)
    # Not its own: bash's would start a bash to ask for its version.
    return ShellComplete.source(completer)
