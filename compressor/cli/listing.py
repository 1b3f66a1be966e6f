"""`compress plugins` and `compress schema`."""

from __future__ import annotations

import json

import click

from compressor.console import print_table
from compressor.plugin_catalog import load_catalog
from compressor.recipe_schema import recipe_schema


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


def show_schema() -> None:
    """Print the JSON Schema of recipes with the installed plugins."""
    click.echo(json.dumps(recipe_schema(load_catalog()), indent=2))
