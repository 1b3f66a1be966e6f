"""What the installed plugins offer, collected once into an immutable catalog.

The only file that knows pluggy's manager.
"""

from __future__ import annotations

import importlib.metadata
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import pluggy
from pluggy import HookImpl
from pydantic import BaseModel

from compressor import hookspecs
from compressor.catalog_rules import check_class, check_hooks, check_unmarked, check_version
from compressor.data_source import DataSource
from compressor.errors import PluginError
from compressor.hookspecs import Converter
from compressor.loss import Loss
from compressor.metric import Metric
from compressor.report import StageRecord
from compressor.strategy import Strategy


@dataclass(frozen=True)
class Origin:
    """The plugin that something comes from: its entry point, and the distribution that was installed for it."""

    plugin: str
    distribution: str = ""
    version: str = ""

    def __str__(self) -> str:
        package = f"{self.distribution} {self.version}".strip()
        return f"plugin '{self.plugin}' ({package or 'given in code'})"


DISTRIBUTION = "onnx-student-compressor"


@dataclass(frozen=True)
class PluginFailure:
    """A plugin that did not load: what it would have offered is missing, all else works."""

    origin: Origin
    error: str
    trace: str = ""
    """Where the error came from, for whoever writes the plugin."""

    def __str__(self) -> str:
        return f"{self.origin} did not load: {self.error}"


@dataclass(frozen=True)
class Relay:
    """Passes announcements on to the plugins that listen."""

    listeners: tuple[tuple[Origin, Callable[[StageRecord], object]], ...] = ()

    def stage_completed(self, record: StageRecord) -> None:
        """Tell every plugin that a stage is done.

        Raises:
            PluginError: a plugin failed at it.
        """
        for origin, listener in self.listeners:
            try:
                listener(record)
            except Exception as error:
                raise PluginError(f"{origin}: compressor_stage_completed failed: {_reason(error)}") from error


def _nothing() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Catalog:
    """Plugin classes by kind and name, where they come from, and which plugins are broken."""

    strategies: Mapping[str, type[Strategy]] = field(default_factory=_nothing)
    metrics: Mapping[str, type[Metric]] = field(default_factory=_nothing)
    losses: Mapping[str, type[Loss]] = field(default_factory=_nothing)
    data_sources: Mapping[str, type[DataSource]] = field(default_factory=_nothing)
    converters: Mapping[tuple[str, int], Converter] = field(default_factory=_nothing)
    """Converters of ONNX operators, by operator type and opset version."""
    origins: Mapping[tuple[str, str], Origin] = field(default_factory=_nothing)
    """By kind, such as `strategies`, and name."""
    failures: tuple[PluginFailure, ...] = ()
    relay: Relay = field(default_factory=Relay)

    def by_kind(self) -> dict[str, Mapping[str, type[BaseModel]]]:
        """Return the classes by kind, then name."""
        return {
            "strategies": self.strategies,
            "metrics": self.metrics,
            "losses": self.losses,
            "data_sources": self.data_sources,
        }

    def only(self, distribution: str) -> Catalog:
        """Return what one distribution offers to recipes, whatever else is installed."""

        def own(kind: str, classes: Mapping[str, type[Any]]) -> Mapping[str, Any]:
            return {
                name: each for name, each in classes.items() if self.origins[kind, name].distribution == distribution
            }

        return replace(
            self,
            strategies=own("strategies", self.strategies),
            metrics=own("metrics", self.metrics),
            losses=own("losses", self.losses),
            data_sources=own("data_sources", self.data_sources),
        )

    def validation_context(self) -> dict[str, Any]:
        """Return what options that name a plugin class are resolved with; see `named_options.resolve`."""
        return {**self.by_kind(), "failures": tuple(map(str, self.failures))}


def load_catalog(extra_plugins: Sequence[object] = ()) -> Catalog:
    """Collect what the installed plugins and `extra_plugins` offer.

    A plugin that fails while it loads is recorded in `failures`, and the others load.

    Raises:
        PluginError: a plugin breaks a rule, such as a name that another one has or a misspelt hook.
    """
    collector = _Collector()
    collector.load_entry_points()
    for plugin in extra_plugins:
        collector.register(plugin, Origin(getattr(plugin, "__name__", type(plugin).__name__)))
    return collector.catalog()


class _Collector:
    """Holds the plugin manager while the catalog is built, and goes with it."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT_NAME)
        self.manager.add_hookspecs(hookspecs)
        self.by_plugin: dict[str, Origin] = {}
        self.origins: dict[tuple[str, str], Origin] = {}
        self.failures: list[PluginFailure] = []

    def load_entry_points(self) -> None:
        entry_points = importlib.metadata.entry_points(group=hookspecs.PROJECT_NAME)
        seen: dict[str, Origin] = {}
        for entry_point in sorted(entry_points, key=lambda entry: entry.name):
            origin = _origin(entry_point)
            if entry_point.name in seen:
                raise PluginError(
                    f"two plugins share a name: {seen[origin.plugin]} and {origin}; uninstall one of them"
                )
            seen[entry_point.name] = origin
            try:
                plugin = entry_point.load()
                check_version(plugin, entry_point.value)
            except (Exception, SystemExit) as error:
                self.failures.append(_failure(origin, error))
            else:
                self.register(plugin, origin)

    def register(self, plugin: object, origin: Origin) -> None:
        name = origin.plugin
        check_version(plugin, str(origin))
        check_unmarked(plugin, str(origin))
        if name in self.by_plugin:
            raise PluginError(f"two plugins share a name: {self.by_plugin[name]} and {origin}")
        try:
            self.manager.register(plugin, name)
        except pluggy.PluginValidationError as error:
            raise PluginError(f"{origin}: {' '.join(str(error).split())}") from error
        except ValueError as error:
            raise PluginError(f"{origin} is the same object as another plugin; list it once") from error
        self.by_plugin[name] = origin
        check_hooks(self.manager, plugin, str(origin))

    def catalog(self) -> Catalog:
        return Catalog(
            strategies=self.classes("strategies", Strategy),
            metrics=self.classes("metrics", Metric),
            losses=self.classes("losses", Loss),
            data_sources=self.classes("data_sources", DataSource),
            converters=self.converters(),
            relay=self.relay(),
            origins=MappingProxyType(self.origins),
            failures=tuple(self.failures),
        )

    def classes(self, kind: str, contract: type) -> Mapping[str, Any]:
        found: dict[str, type] = {}
        for origin, offered in self.offers(f"compressor_{kind}"):
            if not isinstance(offered, list | tuple):
                raise PluginError(f"{origin}: compressor_{kind} must return a list of classes, found {offered!r}")
            for offer in offered:
                name = check_class(offer, contract, str(origin))
                self.claim(kind, name, origin)
                found[name] = offer
        return MappingProxyType(found)

    def converters(self) -> Mapping[tuple[str, int], Converter]:
        found: dict[tuple[str, int], Converter] = {}
        # Ours first: whoever installs another converter wants that one.
        for origin, offered in sorted(self.offers("compressor_onnx_converters"), key=lambda offer: not _ours(offer[0])):
            for (operator, version), converter in dict(offered).items():
                if not _ours(origin):
                    self.claim("onnx_converters", f"{operator}-{version}", origin)
                found[operator, version] = converter
        return MappingProxyType(found)

    def offers(self, hook: str) -> list[tuple[Origin, Any]]:
        """Call a hook plugin by plugin, so that one that fails does not take the others with it."""
        offers = []
        for implementation in self.implementations(hook):
            origin = self.by_plugin[implementation.plugin_name]
            try:
                offers.append((origin, implementation.function()))
            except Exception as error:
                self.failures.append(_failure(origin, error, f"{hook} failed: "))
        return offers

    def claim(self, kind: str, name: str, origin: Origin) -> None:
        """Note that `origin` offers `name`, unless another plugin does."""
        if (kind, name) in self.origins:
            raise PluginError(f"two {kind} are called '{name}': one of {self.origins[kind, name]}, one of {origin}")
        self.origins[kind, name] = origin

    def relay(self) -> Relay:
        return Relay(
            tuple(
                (self.by_plugin[implementation.plugin_name], _listener(implementation))
                for implementation in self.implementations("compressor_stage_completed")
            )
        )

    def implementations(self, hook: str) -> list[HookImpl]:
        implementations: list[HookImpl] = getattr(self.manager.hook, hook).get_hookimpls()
        return implementations


def _listener(implementation: HookImpl) -> Callable[[StageRecord], object]:
    """Return a function of one argument; pluggy lets an implementation leave its argument out."""
    function: Callable[..., object] = implementation.function
    return function if implementation.argnames else lambda record: function()  # noqa: ARG005


def _origin(entry_point: importlib.metadata.EntryPoint) -> Origin:
    distribution = entry_point.dist
    if distribution is None:
        return Origin(entry_point.name, "an unknown distribution")
    return Origin(entry_point.name, distribution.name, distribution.version)


def _ours(origin: Origin) -> bool:
    """Say whether a plugin came with this package."""
    return origin.distribution == DISTRIBUTION


def _failure(origin: Origin, error: BaseException, where: str = "") -> PluginFailure:
    reason = str(error) if isinstance(error, PluginError) else _reason(error)
    return PluginFailure(origin, f"{where}{reason}", "".join(traceback.format_exception(error)))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
