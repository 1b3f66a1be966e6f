"""What a plugin must keep to: hooks that exist, plain implementations, classes that fit their contract."""

from __future__ import annotations

import inspect
import re

import pluggy
from pydantic import BaseModel

from compressor import hookspecs
from compressor.errors import PluginError
from compressor.named_options import did_you_mean
from compressor.strategy import BudgetedStrategy

_PREFIX = f"{hookspecs.PROJECT_NAME}_"
_KEBAB_CASE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def is_name(text: str) -> bool:
    """Say whether a recipe could name a class so."""
    return _KEBAB_CASE.fullmatch(text) is not None


def check_version(plugin: object, origin: str) -> None:
    """Refuse a plugin that was made for another version of the plugin API; one that says nothing is for the first.

    Raises:
        PluginError: it was, or what it says is no version.
    """
    version = getattr(plugin, "COMPRESSOR_API", 1)
    current = hookspecs.API_VERSION
    if not isinstance(version, int) or isinstance(version, bool):
        raise PluginError(f"{origin}: COMPRESSOR_API is {version!r}, expected a whole number such as {current}")
    if version != current:
        remedy = "update onnx-student-compressor" if version > current else "update the plugin"
        raise PluginError(
            f"{origin}: made for version {version} of the plugin API (COMPRESSOR_API), here is {current}; {remedy}"
        )


def check_unmarked(plugin: object, origin: str) -> None:
    """Refuse a function called like a hook that lacks `@hookimpl`: pluggy would pass over it in silence.

    Raises:
        PluginError: there is one.
    """
    for name in dir(plugin):
        value = getattr(plugin, name)
        if name.startswith(_PREFIX) and inspect.isroutine(value) and not hasattr(value, f"{_PREFIX}impl"):
            raise PluginError(f"{origin}: '{name}' is called like a hook but lacks @hookimpl{_hint(name)}")


def check_hooks(manager: pluggy.PluginManager, plugin: object, origin: str) -> None:
    """Refuse a registered plugin with no hook, with a misspelt one, or with a wrapper.

    Raises:
        PluginError: names the hook.
    """
    callers = manager.get_hookcallers(plugin) or []
    if not callers:
        raise PluginError(f"{origin}: has no hook; mark functions such as compressor_strategies with @hookimpl")
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        unknown = [caller.name for caller in callers if not caller.has_spec()]
        raise PluginError("; ".join(f"{origin}: there is no hook '{name}'{_hint(name)}" for name in unknown)) from error
    for caller in callers:
        own = [each for each in caller.get_hookimpls() if each.plugin is plugin]
        if any(each.wrapper or each.hookwrapper for each in own):
            raise PluginError(
                f"{origin}: '{caller.name}' is a hook wrapper; plugins may offer, not change, what is offered"
            )


def check_class(offer: object, contract: type, origin: str) -> str:
    """Return the name of a class that a plugin offers.

    Raises:
        PluginError: it is no finished class of its contract, or has no name that a recipe could write.
    """
    kind = contract.__name__
    if not (isinstance(offer, type) and issubclass(offer, contract) and issubclass(offer, BaseModel)):
        raise PluginError(f"{origin}: {offer!r} is offered as a {kind} but is no subclass of {kind}")
    place = f"{origin}: {kind} {offer.__module__}.{offer.__qualname__}"
    if inspect.isabstract(offer):
        raise PluginError(f"{place} lacks {', '.join(sorted(offer.__abstractmethods__))}")
    if not offer.model_config.get("frozen") or offer.model_config.get("extra") != "forbid":
        raise PluginError(f"{place} must keep the contract's model_config: frozen, and extra='forbid'")
    name = getattr(offer, "name", None)
    if not isinstance(name, str) or not is_name(name):
        raise PluginError(f"{place} needs a 'name: ClassVar[str]' in kebab-case, such as 'low-rank'; found {name!r}")
    if issubclass(offer, BudgetedStrategy) and getattr(offer, "fixed_by", None) not in offer.model_fields:
        raise PluginError(
            f"{place} needs a 'fixed_by: ClassVar[str]' that names the option for choosing without a budget"
        )
    return name


def _hint(name: str) -> str:
    return did_you_mean(name, [hook for hook in dir(hookspecs) if hook.startswith(_PREFIX)])
