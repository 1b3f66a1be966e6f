"""`compress plugins`, `compress recipes` and `compress schema`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from compressor.console import print_table
from compressor.plugin_catalog import load_catalog
from compressor.shipped_recipes import copy_recipe, schema_text, shipped_recipes


def show_plugins(*, as_json: bool) -> None:
    """Print what is installed, from which plugin and distribution."""
    catalog = load_catalog()
    offers = [
        {
            "kind": kind.replace("_", " "),
            "name": name,
            "from": str(catalog.origins.get((kind, name), "")),
            "what": (offer.__doc__ or "").strip().splitlines()[0] if offer.__doc__ else "",
        }
        for kind, classes in catalog.by_kind().items()
        for name, offer in sorted(classes.items())
    ]
    failures = [str(failure) for failure in catalog.failures]
    if as_json:
        click.echo(json.dumps({"plugins": offers, "failures": failures}, indent=2))
        return
    print_table(["kind", "name", "from", ""], [list(offer.values()) for offer in offers])
    for failure in failures:
        click.echo(f"not loaded: {failure}", err=True)


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
