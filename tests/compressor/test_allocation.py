from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.allocation import Choices, allocate
from compressor.errors import BudgetError
from compressor.strategy import Candidate

METRICS = ("parameters", "macs")
LAYERS = ("a", "b", "c")

Offers = dict[str, list[Candidate]]
Problem = tuple[Offers, dict[str, float], dict[str, float]]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Draw what up to two stages could do to up to three layers, what the model costs and what it may cost.

    Candidates may touch other layers than their own. Costs and errors are of any unit.
    """
    unit, error_unit = 10.0 ** draw(st.integers(-9, 9)), 10.0 ** draw(st.integers(-9, 3))

    def candidate(layer: str, setting: int) -> Candidate:
        return Candidate(
            layer=layer,
            setting=setting,
            saving={metric: unit * draw(st.integers(0, 50)) for metric in METRICS},
            error=error_unit * draw(st.integers(0, 1000)),
            touches=tuple(draw(st.sets(st.sampled_from(LAYERS), max_size=2))),
        )

    offers = {
        stage: [
            candidate(layer, setting)
            for layer in LAYERS[: draw(st.integers(1, 3))]
            for setting in range(draw(st.integers(1, 3)))
        ]
        for stage in ("first", "second")[: draw(st.integers(1, 2))]
    }
    limited = draw(st.sampled_from([METRICS, METRICS[:1]]))
    # Where units are no whole numbers, rounding must not decide whether a limit is met exactly.
    half = draw(st.sampled_from([0.0, 0.5])) if unit == 1.0 else 0.5
    limits = {metric: unit * (draw(st.integers(20, 210)) + half) for metric in limited}
    return offers, dict.fromkeys(METRICS, 200.0 * unit), limits


def taken_by(offers: Offers, choices: Choices) -> list[Candidate]:
    return [
        candidate
        for stage, offered in offers.items()
        for candidate in offered
        if choices.get(stage, {}).get(candidate.layer) == candidate.setting
    ]


def apart(candidates: list[Candidate]) -> bool:
    """Say whether no layer is touched twice."""
    touched = [layer for candidate in candidates for layer in candidate.touches or (candidate.layer,)]
    return len(touched) == len(set(touched))


def least_error(offers: Offers, costs: dict[str, float], limits: dict[str, float]) -> float | None:
    """Return the least error of all choices that meet the limits, by trying every one."""
    layers: dict[tuple[str, str], list[Candidate | None]] = {}
    for stage, offered in offers.items():
        for candidate in offered:
            layers.setdefault((stage, candidate.layer), [None]).append(candidate)
    choices = ([each for each in chosen if each] for chosen in product(*layers.values()))
    errors = [
        sum(each.error for each in chosen)
        for chosen in choices
        if apart(chosen)
        and all(costs[name] - sum(each.saving[name] for each in chosen) <= limits[name] for name in limits)
    ]
    return min(errors, default=None)


@given(problems())
@settings(max_examples=200)
def test_the_choice_is_the_best_of_all(problem: Problem) -> None:
    offers, costs, limits = problem
    best = least_error(offers, costs, limits)
    if best is None:
        with pytest.raises(BudgetError):
            allocate(offers, costs, limits)
        return
    chosen = allocate(offers, costs, limits)
    taken = taken_by(offers, chosen)
    assert len(taken) == sum(map(len, chosen.values()))
    assert apart(taken)
    for name, limit in limits.items():
        assert costs[name] - sum(candidate.saving[name] for candidate in taken) <= limit
    # The solver stops when it is within a ten thousandth of the best.
    assert sum(candidate.error for candidate in taken) == pytest.approx(best, rel=2e-4, abs=1e-300)


@pytest.mark.parametrize("unit", [1e-9, 1e6])
def test_in_which_unit_errors_are_does_not_matter(unit: float) -> None:
    random = np.random.default_rng(0)
    plain = [
        Candidate(f"layer {layer}", setting, {"macs": random.uniform(1, 100)}, random.uniform(0.1, 10))
        for layer in range(40)
        for setting in range(5)
    ]
    other = [replace(candidate, error=unit * candidate.error) for candidate in plain]
    choices = [allocate({"stage": each}, {"macs": 4000.0}, {"macs": 2500.0}) for each in (plain, other)]
    errors = [sum(candidate.error for candidate in taken_by({"stage": plain}, each)) for each in choices]
    assert errors[1] == pytest.approx(errors[0], rel=2e-4)


def test_stages_share_what_is_to_be_saved() -> None:
    offers = {
        "prune": [Candidate("a", 8, {"parameters": 40}, 5.0), Candidate("b", 8, {"parameters": 40}, 1.0)],
        "factorise": [Candidate("a", 1, {"parameters": 40}, 2.0), Candidate("b", 1, {"parameters": 40}, 3.0)],
    }
    found = allocate(offers, {"parameters": 100}, {"parameters": 20})
    assert found == {"prune": {"b": 8}, "factorise": {"a": 1}}


def test_no_layer_is_changed_twice() -> None:
    unit = Candidate("unit", "dropped", {"parameters": 50}, 0.1, touches=("a", "b"))
    offers = {"drop": [unit], "factorise": [Candidate(layer, 1, {"parameters": 30}, 1.0) for layer in ("a", "b", "c")]}
    costs = {"parameters": 200}
    assert allocate(offers, costs, {"parameters": 150}) == {"drop": {"unit": "dropped"}}
    assert allocate(offers, costs, {"parameters": 120}) == {"drop": {"unit": "dropped"}, "factorise": {"c": 1}}
    assert allocate(offers, costs, {"parameters": 110}) == {"factorise": {"a": 1, "b": 1, "c": 1}}
    with pytest.raises(BudgetError, match="parameters: limit 100, now 200, at least 110"):
        allocate(offers, costs, {"parameters": 100})


def test_a_limit_that_is_kept_already_needs_no_choice() -> None:
    offers = {"stage": [Candidate("a", 1, {"parameters": 5}, 0.0)]}
    assert allocate(offers, {"parameters": 10}, {"parameters": 10}) == {}
    assert allocate({}, {"parameters": 10}, {"parameters": 11}) == {}


def test_the_error_says_how_near_it_gets() -> None:
    offers = {
        "first": [
            Candidate("a", 8, {"parameters": 100, "macs": 10}, 0.1),
            Candidate("a", 4, {"parameters": 300, "macs": 20}, 0.3),
        ],
        "second": [Candidate("b", 4, {"parameters": 500, "macs": 30}, 0.2)],
    }
    with pytest.raises(BudgetError) as caught:
        allocate(offers, {"parameters": 2000, "macs": 100}, {"parameters": 1199, "macs": 90})
    assert str(caught.value) == (
        "no choice meets the budget:\n"
        "  parameters: limit 1,199, now 2,000, at least 1,200 with every layer at its smallest\n"
        "  macs: limit 90, now 100, at least 50 with every layer at its smallest\n"
        "  Raise the limit, let the stages change more layers (targets), or add a stage that saves more."
    )


def test_limits_that_only_each_alone_can_be_kept_are_refused() -> None:
    offers = {"stage": [Candidate("a", 1, {"parameters": 10, "macs": 0}, 0.0), Candidate("a", 2, {"macs": 10}, 0.0)]}
    with pytest.raises(BudgetError, match="parameters: limit 95, now 100, at least 90"):
        allocate(offers, {"parameters": 100, "macs": 100}, {"parameters": 95, "macs": 95})


@pytest.mark.parametrize("offers", [{}, {"stage": []}])
def test_without_candidates_nothing_can_be_saved(offers: Offers) -> None:
    with pytest.raises(BudgetError, match="parameters: limit 5, now 10, at least 10"):
        allocate(offers, {"parameters": 10}, {"parameters": 5})
