"""`compress plugins`, `compress recipes` and `compress schema`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from compressor.console import print_table
from compressor.plugin_catalog import load_catalog
from compressor.shipped_recipes import copy_recipe, schema_text, shipped_recipes


def show_plugins(*, as_json: bool, verbose: bool) -> None:
    """Print what is installed, from which plugin and distribution; with every option, and why a plugin did not load."""
    catalog = load_catalog()
    offers = [
        _offer(kind, name, offer, str(catalog.origins.get((kind, name), "")), verbose=verbose)
        for kind, classes in catalog.by_kind().items()
        for name, offer in sorted(classes.items())
    ]
    if as_json:
        failures = [
            {"what": str(failure), **({"trace": failure.trace} if verbose else {})} for failure in catalog.failures
        ]
        click.echo(json.dumps({"plugins": offers, "failures": failures}, indent=2))
        return
    if verbose:
        for offer in offers:
            _print_offer(offer)
    else:
        print_table(["kind", "name", "from", ""], [list(offer.values()) for offer in offers])
    for failure in catalog.failures:
        click.echo(f"not loaded: {failure}{chr(10) + failure.trace if verbose else ''}", err=True)


def _offer(kind: str, name: str, offer: type[BaseModel], origin: str, *, verbose: bool) -> dict[str, Any]:
    lines = inspect.cleandoc(offer.__doc__ or "").splitlines() or [""]
    shown: dict[str, Any] = {"kind": kind.replace("_", " "), "name": name, "from": origin, "what": lines[0]}
    if verbose:
        shown["class"] = f"{offer.__module__}.{offer.__qualname__}"
        shown["about"] = "\n".join(lines[1:]).strip()
        shown["options"] = [
            {
                "name": option,
                "default": None if field.is_required() else _default(offer, option),
                "required": field.is_required(),
                "what": field.description or "",
            }
            for option, field in offer.model_fields.items()
        ]
    return shown


def _default(offer: type[BaseModel], option: str) -> Any:
    return to_jsonable_python(offer.model_fields[option].get_default(call_default_factory=True), fallback=str)


def _print_offer(offer: Mapping[str, Any]) -> None:
    click.echo(f"{offer['name']}: {offer['what']}")
    click.echo(f"  {offer['kind']}, {offer['class']}, from {offer['from']}")
    for option in offer["options"]:
        default = "required" if option["required"] else json.dumps(option["default"])
        click.echo(f"    {option['name']} ({default}){': ' + option['what'] if option['what'] else ''}")
    click.echo("")


def show_recipes(*, as_json: bool) -> None:
    """Print the recipes that ship."""
    recipes = [{"name": recipe.name, "what": recipe.summary, "file": str(recipe.path)} for recipe in shipped_recipes()]
    if as_json:
        click.echo(json.dumps({"recipes": recipes}, indent=2))
        return
    print_table(["recipe", ""], [[recipe["name"], recipe["what"]] for recipe in recipes])
    click.echo("\na copy to change:  compress recipes copy NAME")


def write_copy(name: str, to: Path) -> None:
    """Copy a recipe that ships."""
    recipe, schema = copy_recipe(name, to, load_catalog())
    click.echo(f"{recipe}: change it, then  compress plan {recipe}")
    click.echo(f"{schema}: editors that know YAML schemas complete and check the recipe by it")


def show_schema() -> None:
    """Print the JSON Schema of recipes with the installed plugins."""
    click.echo(schema_text(load_catalog()), nl=False)
