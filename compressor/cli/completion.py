"""`compress completion`."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

COMMAND, VARIABLE = "compress", "_COMPRESS_COMPLETE"


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
