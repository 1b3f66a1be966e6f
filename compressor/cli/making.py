"""Commands that make students, and those for what was made; what they do is imported when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from compressor.cli.completion import folders
from compressor.cli.group import AS_JSON, DATA, QUIET, RECIPE, SET, TEACHER, main


@main.command()
@RECIPE
@TEACHER
@DATA
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    shell_complete=folders,
    help="Run folder; the recipe's, or runs/<recipe>, if left out.",
)
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
      compress run recipes/hifigan_student.yaml --set distillation.max_minutes=60 --out runs/longer
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
@RECIPE
@click.option(
    "--vary",
    multiple=True,
    required=True,
    metavar="STAGE.OPTION=VALUES",
    help="What changes from trial to trial: 1,2,3 or 1..8 or log:1e-5..1e-3. Can be given several times.",
)
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="By what trials are compared; once or more.")
@click.option("--trials", type=click.IntRange(1), default=10, show_default=True, help="Trials in all.")
@TEACHER
@DATA
@SET
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    shell_complete=folders,
    help="Folder of the sweep; runs/<recipe>_sweep if not given.",
)
@click.option("--storage", metavar="URL", help="Optuna storage that several machines reach; a file in --out otherwise.")
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--address", help="Ray cluster to run on; one is started here if not given.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Trials at a time.")
@click.option("--device", default="cpu", show_default=True, help="Where training runs: cpu, cuda, cuda:1, mps.")
@QUIET
@AS_JSON
def sweep(**asked: Any) -> None:
    """Run RECIPE many times with options varied, and show which students no other beats.

    Stages that trials begin alike are computed once. An interrupted sweep goes on when the same command is given again.

    \b
    Examples:
      compress sweep recipes/hifigan_student.yaml --vary budget.parameters=20%,30%,40% --metric stoi --metric parameters
      compress sweep RECIPE --vary distillation.end_to_end.learning_rate=log:1e-4..1e-3 --metric pesq-wb --trials 20
    """
    from compressor.cli.sweeping import Asked, run_sweep

    run_sweep(Asked(**asked))


@main.command()
@click.argument("run_a", type=click.Path(path_type=Path), metavar="RUN_A", shell_complete=folders)
@click.argument("run_b", type=click.Path(path_type=Path), metavar="RUN_B", shell_complete=folders)
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
