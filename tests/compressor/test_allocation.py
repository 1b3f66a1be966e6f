from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.allocation import allocate
from compressor.errors import BudgetError
from compressor.strategy import Candidate

METRICS = ("parameters", "macs")


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Candidate], dict[str, float], dict[str, float]]:
    """Draw up to four layers of up to four candidates, what the model costs and what it may cost."""
    candidates = [
        Candidate(
            layer=f"layer {layer}",
            setting=setting,
            saving={metric: float(draw(st.integers(0, 50))) for metric in METRICS},
            error=draw(st.integers(0, 1000)) / 100,
        )
        for layer in range(draw(st.integers(1, 4)))
        for setting in range(draw(st.integers(1, 4)))
    ]
    limited = draw(st.sampled_from([METRICS, METRICS[:1]]))
    return (
        candidates,
        dict.fromkeys(METRICS, 200.0),
        {metric: float(draw(st.integers(20, 210))) for metric in limited},
    )


def least_error(candidates: list[Candidate], costs: dict[str, float], limits: dict[str, float]) -> float | None:
    """Return the least error of all choices that meet the limits, by trying every one."""
    layers: dict[str, list[Candidate | None]] = {}
    for candidate in candidates:
        layers.setdefault(candidate.layer, [None]).append(candidate)
    errors = [
        sum(each.error for each in chosen if each)
        for chosen in product(*layers.values())
        if all(costs[name] - sum(each.saving[name] for each in chosen if each) <= limits[name] for name in limits)
    ]
    return min(errors, default=None)


@given(problems())
@settings(max_examples=150, deadline=None)
def test_the_choice_is_the_best_of_all(problem: tuple[list[Candidate], dict[str, float], dict[str, float]]) -> None:
    candidates, costs, limits = problem
    best = least_error(candidates, costs, limits)
    if best is None:
        with pytest.raises(BudgetError):
            allocate(candidates, costs, limits)
        return
    chosen = allocate(candidates, costs, limits)
    taken = [candidate for candidate in candidates if chosen.get(candidate.layer) == candidate.setting]
    assert len(taken) == len(chosen)
    for name, limit in limits.items():
        assert costs[name] - sum(candidate.saving[name] for candidate in taken) <= limit
    # The solver stops when it is within a ten thousandth of the best.
    assert sum(candidate.error for candidate in taken) == pytest.approx(best, rel=2e-4, abs=1e-6)


def test_a_limit_that_is_kept_already_needs_no_choice() -> None:
    assert allocate([Candidate("a", 1, {"parameters": 5}, 0.0)], {"parameters": 10}, {"parameters": 10}) == {}
    assert allocate([], {"parameters": 10}, {"parameters": 11}) == {}


def test_the_error_says_how_near_it_gets() -> None:
    candidates = [
        Candidate("a", 8, {"parameters": 100, "macs": 10}, 0.1),
        Candidate("a", 4, {"parameters": 300, "macs": 20}, 0.3),
        Candidate("b", 4, {"parameters": 500, "macs": 30}, 0.2),
    ]
    with pytest.raises(BudgetError) as caught:
        allocate(candidates, {"parameters": 2000, "macs": 100}, {"parameters": 1199, "macs": 90})
    assert str(caught.value) == (
        "no choice of widths meets the budget:\n"
        "  parameters: limit 1,199, now 2,000, at least 1,200 with every layer at its smallest\n"
        "  macs: limit 90, now 100, at least 50 with every layer at its smallest\n"
        "  Raise the limit, let the stage change more layers (targets), or add a stage that saves more."
    )


def test_limits_that_only_each_alone_can_be_kept_are_refused() -> None:
    candidates = [Candidate("a", 1, {"parameters": 10, "macs": 0}, 0.0), Candidate("a", 2, {"macs": 10}, 0.0)]
    with pytest.raises(BudgetError, match="parameters: limit 95, now 100, at least 90"):
        allocate(candidates, {"parameters": 100, "macs": 100}, {"parameters": 95, "macs": 95})


def test_without_candidates_nothing_can_be_saved() -> None:
    with pytest.raises(BudgetError, match="parameters: limit 5, now 10, at least 10"):
        allocate([], {"parameters": 10}, {"parameters": 5})
