"""The command that all others belong to, and options that several of them share."""

from __future__ import annotations

from pathlib import Path

import click

from compressor.cli.completion import files, folders
from compressor.cli.errors import ErrorsForPeople

RECIPE = click.argument("recipe", type=click.Path(path_type=Path))
TEACHER = click.option(
    "--teacher",
    metavar="FILE.onnx",
    shell_complete=files,
    help="Compress this model instead of the recipe's teacher.",
)
DATA = click.option(
    "--data",
    metavar="FOLDER",
    shell_complete=folders,
    help="Use the recordings in this folder instead of the recipe's data.",
)
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="STAGE.OPTION=VALUE",
    help="Change one value of the recipe, such as distillation.end_to_end.steps=4000 or budget.parameters=25%.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
QUIET = click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors, and what --json asks for.")
FIRST_STEPS = """\
New here? Try:
  compress recipes copy hifigan_student
  compress plan hifigan_student.yaml"""
"""Not with `recipes/`: whoever installed a wheel has no such folder."""


@click.group(cls=ErrorsForPeople, invoke_without_command=True)
@click.version_option(package_name="onnx-student-compressor", prog_name="compress")
@click.pass_context
def main(context: click.Context) -> None:
    """Compress an ONNX model into a smaller, faster student that drops into its place.

    \b
    Examples:
      compress plan recipes/hifigan_student.yaml        what would be done, and what it costs
      compress run recipes/hifigan_student.yaml         do it; the student lands in runs/hifigan_student/
      compress run RECIPE --teacher my_vocoder.onnx --data recordings/
      compress synth runs/hifigan_student/student.onnx speech.wav -o out.wav
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        click.echo(f"\n{FIRST_STEPS}")
