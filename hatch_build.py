"""Puts the recipes into wheels, inside the package; an editable install reads them where they are."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RecipesInside(BuildHookInterface):  # type: ignore[type-arg]
    """Maps `recipes/` to `compressor/recipes/`, where `compressor.shipped_recipes` looks for it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folder, but for editable installs, whose package it would hide."""
        if version != "editable":
            build_data["force_include"]["recipes"] = "compressor/recipes"
