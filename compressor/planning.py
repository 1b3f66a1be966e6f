"""From a recipe to a plan: everything it names built and valid, or every problem told at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from compressor.data_source import DataSource
from compressor.hookspecs import Converters
from compressor.metric import Metric
from compressor.named_options import build, find
from compressor.plugin_catalog import Catalog
from compressor.recipe import Limit, Named, Recipe
from compressor.recipe_file import RecipeDocument, stage_labels
from compressor.recipe_problems import NOWHERE, Location, ProblemCollector
from compressor.signal_metric import SignalMetric, split_measured_name
from compressor.strategy import BudgetedStrategy, FileStrategy, Strategy
from compressor.validation_messages import explain

_Built = TypeVar("_Built", bound=BaseModel)


@dataclass(frozen=True)
class PlannedStage:
    """A strategy at its place in the recipe, with its options."""

    label: str
    strategy: Strategy
    origin: str
    """Plugin, distribution and version that the strategy comes from."""


@dataclass(frozen=True)
class Plan:
    """A recipe that can be run: every strategy, metric and data source built and valid."""

    recipe: Recipe
    stages: tuple[PlannedStage, ...]
    data: DataSource | None
    metrics: tuple[Metric, ...]
    limits: Mapping[str, Limit]
    """The budget, by metric; each of these metrics is among `metrics`."""
    converters: Converters = field(default_factory=dict)
    """ONNX operators that plugins convert, for loading the teacher."""

    @property
    def graph_stages(self) -> tuple[PlannedStage, ...]:
        """Those that work on the graph."""
        return tuple(stage for stage in self.stages if not isinstance(stage.strategy, FileStrategy))

    @property
    def file_stages(self) -> tuple[PlannedStage, ...]:
        """Those that work on the finished student's file; they come last."""
        return tuple(stage for stage in self.stages if isinstance(stage.strategy, FileStrategy))


def plan(source: RecipeDocument | Recipe, catalog: Catalog) -> Plan:
    """Build everything that a recipe names.

    Raises:
        RecipeError: every problem of all stages, metrics, data and budget; with lines where the recipe is from a file.
    """
    if isinstance(source, RecipeDocument):
        recipe, problems = source.recipe, ProblemCollector(source.places, list(source.problems))
    else:
        recipe, problems = source, ProblemCollector(NOWHERE)
    planner = _Planner(recipe, catalog, problems)
    stages, data, metrics = planner.stages(), planner.data(), planner.metrics()
    planner.problems.raise_any()
    limits = MappingProxyType(dict(recipe.budget))
    return Plan(recipe, stages, data, metrics, limits, catalog.converters)


@dataclass(frozen=True)
class _Planner:
    """Builds part after part; what is wrong goes to `problems`, and the rest is built all the same."""

    recipe: Recipe
    catalog: Catalog
    problems: ProblemCollector

    def stages(self) -> tuple[PlannedStage, ...]:
        planned: list[PlannedStage] = []
        for position, (label, named) in enumerate(zip(stage_labels(self.recipe), self.recipe.stages, strict=True)):
            location: Location = ("stages", position)
            self.check_data(self.catalog.strategies.get(named.name), named.name, location)
            strategy = self.build("strategies", self.catalog.strategies, named, location)
            if strategy is not None:
                self.check_budget(strategy, location)
                self.check_place(strategy, planned, location)
                origin = self.catalog.origins.get(("strategies", named.name), "")
                planned.append(PlannedStage(label, strategy, str(origin)))
        return tuple(planned)

    def data(self) -> DataSource | None:
        if self.recipe.data is None:
            return None
        return self.build("data_sources", self.catalog.data_sources, self.recipe.data, ("data",))

    def metrics(self) -> tuple[Metric, ...]:
        """Build the metrics of the recipe, or else all that apply, and in any case those of budget and gates."""
        chosen = self.default_metrics() if self.recipe.metrics is None else self.named_metrics(self.recipe.metrics)
        listed = {metric.name for metric in chosen} | {named.name for named in self.recipe.metrics or ()}
        needed: dict[str, Location] = {name: ("budget", name) for name in self.recipe.budget}
        for gate in self.recipe.gates:
            needed.setdefault(self.gated_metric(gate), ("gates", gate))
        more = [self.metric(Named(name=name), location) for name, location in needed.items() if name not in listed]
        return (*chosen, *(metric for metric in more if metric is not None))

    def gated_metric(self, gate: str) -> str:
        """Return the metric that a gate judges by."""
        name, against = split_measured_name(gate)
        known = self.catalog.metrics.get(name)
        if against == "recording" and known is not None and not issubclass(known, SignalMetric):
            self.problems.add(("gates", gate), f"'{name}' compares nothing with recordings; a gate on it is '{name}'")
        return name

    def default_metrics(self) -> tuple[Metric, ...]:
        """Build the installed metrics that need neither options nor data that the recipe does not have."""
        return tuple(
            metric()
            for metric in self.catalog.metrics.values()
            if not any(field.is_required() for field in metric.model_fields.values())
            and not (metric.needs_data and self.recipe.data is None)
        )

    def named_metrics(self, named_metrics: tuple[Named, ...]) -> tuple[Metric, ...]:
        names = [named.name for named in named_metrics]
        for position, name in enumerate(names):
            if name in names[:position]:
                self.problems.add(("metrics", position), f"metric '{name}' is listed twice")
        metrics = [self.metric(named, ("metrics", position)) for position, named in enumerate(named_metrics)]
        return tuple(metric for metric in metrics if metric is not None)

    def metric(self, named: Named, location: Location) -> Metric | None:
        self.check_data(self.catalog.metrics.get(named.name), named.name, location)
        return self.build("metrics", self.catalog.metrics, named, location)

    def check_budget(self, strategy: Strategy, location: Location) -> None:
        if isinstance(strategy, BudgetedStrategy) and not strategy.fixed and not self.recipe.budget:
            message = f"'{strategy.name}' has neither a budget to spend nor '{strategy.fixed_by}': give one of them"
            self.problems.add(location, message)

    def check_place(self, strategy: Strategy, before: list[PlannedStage], location: Location) -> None:
        """Note where a stage stands that cannot stand there."""
        on_file = isinstance(strategy, FileStrategy)
        if on_file and self.recipe.teacher.region is not None:
            message = f"'{strategy.name}' works on the file of a whole model, and the teacher is a region of one"
            self.problems.add(location, f"{message}: leave it out, or compress the whole model")
        rewritten = next((each.label for each in before if isinstance(each.strategy, FileStrategy)), None)
        if rewritten and not on_file:
            message = f"'{strategy.name}' works on the graph, of which '{rewritten}' before it makes a finished file"
            self.problems.add(location, f"{message}: let '{rewritten}' come last")

    def check_data(self, plugin_class: type[Strategy | Metric] | None, name: str, location: Location) -> None:
        if plugin_class is not None and plugin_class.needs_data and self.recipe.data is None:
            known = ", ".join(sorted(self.catalog.data_sources)) or "none is installed"
            message = f"'{name}' needs data, and the recipe names none: add 'data:' with a data source ({known})"
            self.problems.add(location, message)

    def build(self, kind: str, known: Mapping[str, type[_Built]], named: Named, location: Location) -> _Built | None:
        """Return the plugin object that `named` asks for, or None where that is a problem."""
        try:
            plugin_class = find(named.name, kind, known, self.catalog.failures)
            return build(plugin_class, named.options, self.catalog.validation_context(), named.name)
        except ValidationError as error:
            self.problems.add_all(explain(error, {named.name: named.options}), location)
        except ValueError as error:
            self.problems.add(location, str(error))
        return None
