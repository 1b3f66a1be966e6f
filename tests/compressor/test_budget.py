from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from compressor_cost.metrics import FileBytes, Parameters
from torch import nn
from torch.fx import GraphModule

from compressor.budget import costs, judge, limit_values, limited, solve
from compressor.errors import BudgetError
from compressor.graph_editing import parameter_count
from compressor.recipe import Limit
from compressor.report import Measurement
from compressor.strategy import BudgetedStrategy, Candidate, StageContext, StageOutcome
from tests.small_graphs import traced

TEACHER = (Measurement(metric="parameters", value=200.0), Measurement(metric="macs", value=1e6))


def measured(parameters: float, macs: float) -> tuple[Measurement, ...]:
    return (Measurement(metric="macs", value=macs), Measurement(metric="parameters", value=parameters))


def test_limits_are_shares_of_the_teacher_or_numbers() -> None:
    limits = {"parameters": Limit(text="30%"), "macs": Limit(text="2e5")}
    assert limit_values(limits, TEACHER) == {"parameters": 60.0, "macs": 2e5}


def test_only_limited_metrics_count() -> None:
    assert costs(TEACHER, {"macs": 3.0}) == {"macs": 1e6}
    assert [metric.name for metric in limited((Parameters(), FileBytes()), {"bytes": 1.0})] == ["bytes"]


@pytest.mark.parametrize(("parameters", "met"), [(60.0, True), (59.0, True), (61.0, False)])
def test_verdicts(parameters: float, met: bool) -> None:
    (verdict,) = judge({"parameters": Limit(text="30%")}, TEACHER, measured(parameters, 5e5))
    assert (verdict.metric, verdict.limit, verdict.limit_text) == ("parameters", 60.0, "30%")
    assert (verdict.teacher, verdict.student, verdict.met) == (200.0, parameters, met)


@pytest.mark.parametrize(
    ("measurement", "message"),
    [
        (Measurement(metric="macs", value=1.0), "'rtf', which cannot be measured here: it needs data whose outputs"),
        (Measurement(metric="rtf", value=None, note="install x"), "'rtf', which cannot be measured here: install x"),
        (Measurement(metric="rtf", value=2.0, better="higher"), "'rtf', which is better when it is higher"),
    ],
)
def test_limits_that_cannot_be_held_are_refused(measurement: Measurement, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        limit_values({"rtf": Limit(text="50%")}, (measurement,))


class Narrow(BudgetedStrategy):
    """Offers to save any number of a model's ten parts, of ten parameters each."""

    name = "narrow"

    def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
        return [Candidate("layer", parts, {"parameters": 10.0 * parts}, float(parts)) for parts in range(1, 10)]

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        raise NotImplementedError


@dataclass
class Rehearsing:
    """Says that what is left costs a fixed share more in the end, and something on top."""

    share: float = 0.0
    on_top: float = 0.0
    tried: list[int] = field(default_factory=list)

    def costs_now(self, student: GraphModule) -> dict[str, float]:
        return {"parameters": 100.0}

    def costs_after(self, student: GraphModule, choices: Mapping[str, int | float | str]) -> dict[str, float]:
        parts = int(choices.get("layer", 0))
        self.tried.append(parts)
        return {"parameters": (100.0 - 10 * parts) * (1 + self.share) + self.on_top}


def solved(limit: float, rehearsal: Rehearsing, context: StageContext) -> dict[str, int | float | str]:
    graph = traced(nn.Sequential(nn.Conv1d(1, 1, 1)), (1, 1, "time"))
    return solve(Narrow(), graph, context, {"parameters": limit}, rehearsal)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limit", "rehearsal", "parts"),
    [
        (50.0, Rehearsing(), 5),
        (59.0, Rehearsing(), 5),
        (100.0, Rehearsing(), None),
        # Later stages add a tenth, or take half away: the choice is corrected for both.
        (55.5, Rehearsing(share=0.1), 5),
        (54.0, Rehearsing(share=0.1), 6),
        (50.0, Rehearsing(share=-0.5), None),
        (20.0, Rehearsing(share=-0.5), 6),
        (50.0, Rehearsing(on_top=20.0), 7),
        (15.0, Rehearsing(on_top=3.0), 9),
    ],
)
def test_the_choice_is_made_for_the_end_of_the_recipe(
    limit: float, rehearsal: Rehearsing, parts: int | None, tiny_context: StageContext
) -> None:
    assert solved(limit, rehearsal, tiny_context) == ({} if parts is None else {"layer": parts})


def test_the_nearest_is_told_where_no_choice_will_do(tiny_context: StageContext) -> None:
    with pytest.raises(BudgetError, match="limit 5, now 100, at least 10 with every layer at its smallest"):
        solved(5.0, Rehearsing(), tiny_context)


def test_the_limit_that_is_told_is_the_recipe_s(tiny_context: StageContext) -> None:
    with pytest.raises(BudgetError, match="limit 25, now 120, at least 30 with"):
        solved(25.0, Rehearsing(on_top=20.0), tiny_context)


def test_without_candidates_there_is_no_choice(tiny_context: StageContext) -> None:
    class Nothing(Narrow):
        def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
            return ()

    graph = traced(nn.Sequential(nn.Conv1d(1, 1, 1)), (1, 1, "time"))
    assert solve(Nothing(), graph, tiny_context, {"parameters": 1.0}, Rehearsing()) == {}  # type: ignore[arg-type]
    assert parameter_count(graph) == 2
    assert torch.is_grad_enabled()
