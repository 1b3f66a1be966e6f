"""Write the reference from the code: recipe, strategies, metrics, losses, data sources, hooks, commands.

python scripts/make_reference.py docs/reference
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
import yaml
from pydantic import BaseModel

from compressor import hookspecs
from compressor.cli import main as compress
from compressor.plugin_catalog import DISTRIBUTION, Catalog, load_catalog
from compressor.recipe import Recipe
from compressor.strategy import BudgetedStrategy

NOTE: Final = "<!-- Made by scripts/make_reference.py: change the code, not this page. -->"

KINDS: Final = {
    "strategies": "What a recipe's `stages` name. Each takes a graph and returns a changed graph and its findings.",
    "metrics": "What a recipe's `metrics`, `budget` and `gates` name; measured on the teacher and after each stage. "
    "What compares audio does so with the teacher's; the finished student's is compared with the recordings as well, "
    "as `METRIC/recording`.",
    "losses": "What a training strategy's `losses` name.",
    "data_sources": "What a recipe's `data` names: where samples for training and validation come from.",
}
TRAITS: Final = {
    "trains": "trains",
    "needs_data": "needs data",
    "needs_signal": "needs an output of known sample rate",
    "any_width": "compares different channel counts",
    "finished_only": "measured on the finished student only",
    "preserves_output": "exact: the core proves the output equal",
}
BOUNDS: Final = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
TYPES: Final = {"string": "text", "boolean": "true or false", "object": "mapping"}
CONTRACTS: Final = {
    "Limit": "a percentage of the teacher's, or a number",
    "Loss": "[loss](losses.md)",
    "Named": "`name` or `name: {options}`",
    "TeacherSource": "path or `{onnx, region}`",
}
"""Models that recipes write in a form of their own."""
EXIT_CODES: Final = (
    ("0", "done"),
    ("1", "a bug, with its traceback"),
    ("2", "what you can mend; the message says how"),
    ("3", "done, but the budget or a quality gate is missed"),
    ("4", "a proof of equality failed"),
    ("130", "interrupted; the same `run` or `sweep` goes on from there"),
)

Schema = Mapping[str, Any]


def pages(catalog: Catalog) -> dict[str, str]:
    """Return the reference as Markdown, by file name; only what this distribution offers is described."""
    kinds = {
        f"{kind.replace('_', '-')}.md": _kind_page(kind, classes)
        for kind, classes in catalog.only(DISTRIBUTION).by_kind().items()
    }
    return {"recipe.md": _recipe_page(), **kinds, "hooks.md": _hooks_page(), "commands.md": _commands_page()}


def _page(title: str, blocks: Sequence[str]) -> str:
    return "\n\n".join([NOTE, f"# {title}", *blocks]) + "\n"


def _recipe_page() -> str:
    introduction = (
        "A YAML mapping with these keys. `compress schema` prints it as JSON Schema, with every installed plugin's "
        "options. Unknown keys are errors."
    )
    return _page("Recipe", [introduction, _table(Recipe.model_json_schema())])


def _kind_page(kind: str, classes: Mapping[str, type[BaseModel]]) -> str:
    blocks = [KINDS[kind]]
    inner: dict[str, Schema] = {}
    for name, plugin_class in sorted(classes.items()):
        schema = plugin_class.model_json_schema()
        inner |= {key: part for key, part in schema.get("$defs", {}).items() if key not in CONTRACTS}
        options = _table(schema) if schema["properties"] else "No options."
        blocks += [f"## `{name}`", inspect.cleandoc(plugin_class.__doc__ or ""), *_traits(plugin_class), options]
    for name, part in inner.items():
        blocks += [f"## {name}", part["description"], _table(part)]
    return _page(kind.replace("_", " ").capitalize(), blocks)


def _traits(plugin_class: type[BaseModel]) -> list[str]:
    traits = [words for name, words in TRAITS.items() if getattr(plugin_class, name, False)]
    if issubclass(plugin_class, BudgetedStrategy):
        traits.append("spends the budget")
    if hasattr(plugin_class, "better"):
        traits.insert(0, f"{plugin_class.better} is better")
    if getattr(plugin_class, "unit", ""):
        traits.insert(0, f"in {plugin_class.unit}")  # type: ignore[attr-defined]
    return [f"*{'; '.join(traits)}*"] if traits else []


def _table(schema: Schema) -> str:
    """Return a model's fields as a Markdown table."""
    required = schema.get("required", ())
    rows = [
        (
            f"`{name}`",
            _type(field),
            "required" if name in required else _default(field, schema),
            field.get("description", ""),
        )
        for name, field in schema["properties"].items()
    ]
    return _rows(("option", "type", "default", ""), rows)


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("<", "&lt;")


def _default(field: Schema, schema: Schema) -> str:
    inner = schema.get("$defs", {}).get(field.get("$ref", "").rpartition("/")[2], {})
    if inner and field["default"] == {name: part.get("default") for name, part in inner["properties"].items()}:
        return "its own"
    written = yaml.safe_dump(field["default"], default_flow_style=True, sort_keys=False, width=10_000)
    return f"`{written.strip().removesuffix('...').strip()}`"


def _type(field: Schema) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return CONTRACTS.get(name, f"[{name}](#{name.lower()})")
    if alternatives := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(map(_type, alternatives))
    if "enum" in field or "const" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum") or [field["const"]])
    if field["type"] == "array":
        return _list_type(field)
    bounds = [f"{sign} {field[key]:.12g}" for key, sign in BOUNDS.items() if key in field]
    kind = TYPES.get(field["type"], str(field["type"]))
    return " ".join([kind, ", ".join(bounds)]).strip()


def _list_type(field: Schema) -> str:
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])}: {_type(field['prefixItems'][0])}"
    return f"list of {_type(field['items'])}"


def _hooks_page() -> str:
    blocks = [
        "What a plugin may offer: functions marked with `compressor.hookspecs.hookimpl`. All are optional.",
    ]
    for name, hook in inspect.getmembers(hookspecs, inspect.isfunction):
        if name.startswith(f"{hookspecs.PROJECT_NAME}_"):
            blocks += [f"## `{name}`", f"```python\ndef {_signature(hook)}: ...\n```"]
            blocks.append(inspect.cleandoc(hook.__doc__ or ""))
    return _page("Hooks", blocks)


def _signature(hook: Callable[..., object]) -> str:
    # Postponed annotations are text, which `inspect` puts in quotes.
    return f"{hook.__name__}{inspect.signature(hook)}".replace("'", "")


def _commands_page() -> str:
    blocks = ["`compress COMMAND --help` says the same.", *_paragraphs(compress.help or "")]
    for name, command in _commands(compress):
        arguments = "".join(f" {argument.human_readable_name}" for argument in _parameters(command, click.Argument))
        blocks += [f"## `compress {name}{arguments}`", *_paragraphs(command.help or "")]
        options = [_option_row(option) for option in _parameters(command, click.Option)]
        blocks += [_rows(("option", "default", ""), options)] if options else []
    blocks += ["## Exit codes", _rows(("code", ""), EXIT_CODES)]
    return _page("Commands", blocks)


def _commands(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command by its full name, those of a group after it."""
    for name, command in sorted(group.commands.items()):
        yield f"{before}{name}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{before}{name} ")


def _parameters(command: click.Command, kind: type[click.Parameter]) -> Iterator[Any]:
    return (parameter for parameter in command.params if isinstance(parameter, kind))


def _option_row(option: click.Option) -> tuple[str, str, str]:
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    default = f"`{option.default}`" if option.show_default else ""
    return f"`{', '.join(option.opts)}{value}`", "required" if option.required else default, option.help or ""


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a command's help; those that click leaves as they are become code."""
    parts = inspect.cleandoc(text).split("\n\n")
    return [f"```text\n{part[1:].strip()}\n```" if part.startswith("\b") else part for part in parts]


def main() -> None:
    """Read the command line and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write into")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, text in pages(load_catalog()).items():
        (out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
