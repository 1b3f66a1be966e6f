"""From a recipe's file to a plan, with what a command line or a program changes in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from compressor.data_source import DataSource
from compressor.errors import DataError
from compressor.planning import Plan, plan
from compressor.plugin_catalog import Catalog, load_catalog
from compressor.recipe import Named
from compressor.recipe_file import read_leniently


def load_plan(
    recipe: Path | str,
    *,
    teacher: Path | str | None = None,
    data: Path | str | None = None,
    overrides: Sequence[str] = (),
    catalog: Catalog | None = None,
) -> Plan:
    """Read and validate a recipe.

    Args:
        recipe: its YAML file.
        teacher: an ONNX file that replaces the recipe's teacher.
        data: a folder that replaces the recipe's data.
        overrides: values to change, such as `distillation.max_minutes=60`.
        catalog: the plugins to build from; the installed ones if left out.

    Raises:
        RecipeError: every mistake at once.
        DataError: `data` is given and no installed source reads a folder.
    """
    installed = catalog or load_catalog()
    changes = list(overrides)
    if teacher is not None:
        # Another teacher has another licence: the recipe's word for it no longer holds.
        part = read_leniently(recipe, changes).recipe.teacher.region is not None
        changes += [f"teacher{'.onnx' if part else ''}={json.dumps(str(teacher))}", "licence=''"]
    document = read_leniently(recipe, changes)
    if data is not None:
        source = _folder_source(installed, str(data), document.recipe.data)
        # First the folder, then what `overrides` say of the data, which would otherwise be replaced.
        document = read_leniently(recipe, [f"data={json.dumps(source)}", *changes])
    return plan(document, installed)


def _folder_source(catalog: Catalog, folder: str, current: Named | None) -> dict[str, object]:
    """Return the recipe's own source, or its nearest relative that reads a folder, with the options that both have.

    Raises:
        DataError: no installed source reads a folder, or several do and none is a relative of the recipe's.
    """
    reading = {name: source for name, source in catalog.data_sources.items() if "path" in source.model_fields}
    if not reading:
        raise DataError("--data: no installed data source reads a folder")
    before: type | None = catalog.data_sources.get(current.name) if current else None
    line = (before or DataSource).__mro__
    shared = {name: next(kind for kind in line if issubclass(source, kind)) for name, source in reading.items()}
    own = current.name if current and current.name in reading else None
    name = own or min(reading, key=lambda name: line.index(shared[name]))
    if not own and [shared[other] for other in reading].count(shared[name]) > 1:
        raise DataError(
            f"--data: {' and '.join(sorted(reading))} read folders, and the recipe does not say which it means; "
            f"say so in the recipe, or by --set 'data={{{name}: {{path: {folder}}}}}'"
        )
    fields = getattr(shared[name], "model_fields", {})
    kept = {key: value for key, value in (current.options if current else {}).items() if key in fields}
    return {name: {**kept, "path": folder}}
