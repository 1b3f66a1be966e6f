"""Recipes as JSON Schema, for editors: every strategy, metric, loss and data source with its options, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel

from compressor.loss import Loss
from compressor.plugin_catalog import Catalog
from compressor.recipe import Recipe
from compressor.signal_metric import SignalMetric, measured_name

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAMES: Final[Mapping[str, Any]] = MappingProxyType({"type": "array", "minItems": 1, "items": {"type": "string"}})
_PART: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "type": "object",
        "properties": {
            "onnx": {"type": "string"},
            "region": {
                "type": "object",
                "properties": {"inputs": dict(_NAMES), "outputs": dict(_NAMES)},
                "required": ["inputs", "outputs"],
                "additionalProperties": False,
            },
        },
        "required": ["onnx"],
        "additionalProperties": False,
    }
)
_SHAPES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "teacher": {"anyOf": [{"type": "string"}, dict(_PART)]},
        "data": {"$ref": "#/$defs/data_sources"},
        "stages": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/strategies"}},
        "metrics": {"type": "array", "items": {"$ref": "#/$defs/metrics"}},
    }
)
_LIMIT: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "description": "a percentage of the teacher's, such as 30%, or an absolute number",
        "anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": r"^\s*[0-9].*$"}],
    }
)


def recipe_schema(catalog: Catalog) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of recipes for the plugins of `catalog`."""
    schema = Recipe.model_json_schema()
    fields = schema["properties"]
    definitions: dict[str, Any] = {"limit": dict(_LIMIT)}
    for kind, classes in catalog.by_kind().items():
        definitions |= _definitions(kind, classes)
    shapes = {name: {"description": fields[name]["description"], **shape} for name, shape in _SHAPES.items()}
    budget = {**fields["budget"], "propertyNames": {"enum": sorted(catalog.metrics)}}
    budget["additionalProperties"] = {"$ref": "#/$defs/limit"}
    gates = {**fields["gates"], "propertyNames": {"enum": _gates(catalog)}}
    properties = {**fields, **shapes, "budget": budget, "gates": gates}
    return {**schema, "$schema": _DIALECT, "properties": properties, "$defs": definitions}


def _gates(catalog: Catalog) -> list[str]:
    """Return what gates may be called: metrics, and those that compare with recordings once more."""
    compared = [name for name, metric in catalog.metrics.items() if issubclass(metric, SignalMetric)]
    return sorted([*catalog.metrics, *(measured_name(name, "recording") for name in compared)])


def _definitions(kind: str, classes: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """Return a definition for each class's options, and under `kind` the choice between them all."""
    definitions: dict[str, Any] = {}
    forms: list[dict[str, Any]] = []
    for name, plugin_class in sorted(classes.items()):
        options = _options(f"{kind}.{name}", plugin_class)
        forms += _forms(name, f"{kind}.{name}", options[f"{kind}.{name}"])
        definitions |= options
    # `oneOf` may not be empty; without any class, nothing is valid here.
    return {**definitions, kind: {"oneOf": forms} if forms else False}


def _options(key: str, plugin_class: type[BaseModel]) -> dict[str, Any]:
    """Return the definition of a class's options, and those of the models inside them."""
    schema = plugin_class.model_json_schema(ref_template=f"#/$defs/{key}.{{model}}")
    inner = schema.pop("$defs", {})
    # An option of the contract's own type takes any loss by name: see `NamedLoss`.
    any_loss, contract = {"$ref": "#/$defs/losses"}, Loss.model_json_schema()
    named = {f"{key}.{model}": any_loss if shape == contract else shape for model, shape in inner.items()}
    return {key: schema, **named}


def _forms(name: str, key: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the ways to write a plugin class: `name: {options}`, and bare where no option is required."""
    description = options.get("description", "")
    reference: dict[str, Any] = {"$ref": f"#/$defs/{key}"}
    bare = [] if options.get("required") else [{"const": name, "description": description}]
    value = {"anyOf": [reference, {"type": "null"}]} if bare else reference
    mapping = {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}
    return [*bare, {**mapping, "description": description}]
