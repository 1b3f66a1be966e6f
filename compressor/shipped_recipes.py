"""The recipes that come with this distribution, and copies of them to change."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import CompressorError
from compressor.named_options import did_you_mean
from compressor.plugin_catalog import Catalog
from compressor.recipe_schema import recipe_schema
from compressor.run_folder import write_atomically

SCHEMA = "recipe.schema.json"
"""The schema's file beside recipes, where their first line has editors look for it."""
MODELINE = f"# yaml-language-server: $schema={SCHEMA}"


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe's name, its file, and what it makes, in a sentence."""

    name: str
    path: Path
    summary: str


def shipped_recipes() -> tuple[ShippedRecipe, ...]:
    """Return the recipes that ship, by name."""
    return tuple(ShippedRecipe(path.stem, path, _summary(path)) for path in sorted(_folder().glob("*.yaml")))


def copy_recipe(name: str, to: Path, catalog: Catalog) -> tuple[Path, ...]:
    """Copy a recipe to a file or into a folder, with the schema of the installed plugins beside it.

    Returns the files that were written; a schema that is there already is brought up to date.

    Raises:
        CompressorError: no recipe has this name, or there is a file already.
    """
    known = {recipe.name: recipe for recipe in shipped_recipes()}
    wanted = name.removesuffix(".yaml")
    if wanted not in known:
        raise CompressorError(f"no recipe '{wanted}' ships{did_you_mean(wanted, known)}; `compress recipes` lists them")
    target = to if to.suffix in (".yaml", ".yml") else to / f"{wanted}.yaml"
    if target.exists():
        raise CompressorError(f"{target} exists; nothing was overwritten. Name another file with --to.")
    text = known[wanted].path.read_text(encoding="utf-8")
    # The first lines say how to run it: with the copy, that is.
    write_atomically(target, text.replace(f"recipes/{wanted}.yaml", target.as_posix()).encode())
    write_atomically(target.parent / SCHEMA, schema_text(catalog).encode())
    return target, target.parent / SCHEMA


def schema_text(catalog: Catalog) -> str:
    """Return the JSON Schema of recipes as its file holds it."""
    return json.dumps(recipe_schema(catalog), indent=2) + "\n"


def _folder() -> Path:
    """Return where recipes lie: inside the package as it is installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def _summary(path: Path) -> str:
    """Return the first sentence of a recipe's opening comment."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") or (lines and line == "#"):
            break
        if line != MODELINE:
            lines.append(line.removeprefix("#").strip())
    return re.split(r"(?<=\.)\s", " ".join(lines))[0]
