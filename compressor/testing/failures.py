"""How a check says what is wrong, and what every class of a plugin has to keep to."""

from __future__ import annotations

from pydantic import BaseModel

from compressor.catalog_rules import check_class
from compressor.errors import PluginError
from compressor.named_options import build
from compressor.plugin_catalog import load_catalog


class CheckFailedError(AssertionError):
    """A plugin's class that breaks what the core relies on: what was found, what was expected, what to do."""


def check(holds: bool, explanation: str) -> None:
    """Go on where something holds.

    Raises:
        CheckFailedError: it does not.
    """
    if not holds:
        raise CheckFailedError(explanation)


def check_options(instance: BaseModel, contract: type) -> str:
    """Check that a class fits its contract, and that what a recipe writes of its options reads back; returns its name.

    Raises:
        CheckFailedError: it does not.
    """
    try:
        name = check_class(type(instance), contract, "it")
    except PluginError as error:
        raise CheckFailedError(str(error)) from error
    first_line = (type(instance).__doc__ or "").strip().splitlines()
    check(bool(first_line), f"{name}: the class has no docstring; its first line is what `compress plugins` shows")
    written = instance.model_dump(mode="json")
    # Options may name plugin classes, such as losses.
    read = build(type(instance), written, load_catalog().validation_context())
    check(
        read == instance,
        f"{name}: its options do not survive being written: {written} reads back as {read!r}. Reports and fingerprints "
        "hold options as JSON; give fields types that pydantic writes and reads",
    )
    return name
