"""`compress new-plugin`: a package to start from."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path

import click
from jinja2 import Environment, PackageLoader, StrictUndefined

from compressor.catalog_rules import is_name
from compressor.errors import CompressorError
from compressor.hookspecs import API_VERSION, PROJECT_NAME
from compressor.plugin_catalog import DISTRIBUTION, load_catalog
from compressor.run_folder import write_atomically

FILES = {
    "pyproject.toml": "pyproject.toml.j2",
    "README.md": "README.md.j2",
    "recipe.yaml": "recipe.yaml.j2",
    "{package}/__init__.py": "package_init.py.j2",
    "{package}/plugin.py": "plugin.py.j2",
    "{package}/strategy.py": "strategy.py.j2",
    "tests/test_{module}.py": "test_strategy.py.j2",
}
"""Templates by the file that is made of each."""


def write_plugin(name: str, to: Path | None) -> None:
    """Write a package with one strategy, and say what to do with it.

    Raises:
        CompressorError: the name cannot be a strategy's or is taken, or the folder holds something.
    """
    words = _words(name)
    folder = to or Path(words["distribution"])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CompressorError(f"{folder} holds something already; nothing was written. Name another folder with --to.")
    templates = Environment(
        loader=PackageLoader("compressor", "plugin_template"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Python and TOML, of words that were checked
    )
    for target, template in FILES.items():
        text = templates.get_template(template).render(words)
        write_atomically(folder / target.format_map(words), text.encode())
    write_atomically(folder / words["package"] / "py.typed", b"")
    click.echo(f"{folder}: a plugin with the strategy '{name}'. Next:\n")
    for command in (f"pip install -e '{folder}[test]'", f"python -m pytest {folder}", "compress plugins"):
        click.echo(f"  {command}")
    click.echo(f"\nthen change {folder / words['package'] / 'strategy.py'}; its tests say what every strategy keeps to")


def _words(name: str) -> Mapping[str, str]:
    """Return what the templates call a plugin.

    Raises:
        CompressorError: no strategy or no Python module can be called so, or one is.
    """
    module = name.replace("-", "_")
    if not is_name(name) or keyword.iskeyword(module):
        raise CompressorError(
            f"'{name}' cannot name a strategy: expected small letters, digits and dashes, as tucker-conv"
        )
    taken = {entry.name for entry in entry_points(group=PROJECT_NAME)}
    if name in taken or find_spec(f"compressor_{module}"):
        raise CompressorError(f"a plugin or package of the name '{name}' is installed already; choose another name")
    if origin := load_catalog().origins.get(("strategies", name)):
        raise CompressorError(f"there is a strategy '{name}' already, of {origin}; choose another name")
    return {
        "name": name,
        "module": module,
        "package": f"compressor_{module}",
        "distribution": f"compressor-{name}",
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "api": str(API_VERSION),
        "version": version(DISTRIBUTION),
    }
