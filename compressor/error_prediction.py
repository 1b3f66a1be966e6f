"""What candidates' errors are worth at the model's output, where they can be added up.

A candidate that says what it would compute is tried out. For a place that has several settings one of them is, and the
others are taken to differ as they do at that place. What cannot be tried, such as a width that many layers share, is
estimated by `sensitivity`, and that estimate is scaled by how it compares where both are known: among the candidates of
the same stage, or of all where none of those was tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressor.calibration import PROBE_SIZE, calibration_inputs
from compressor.errors import StageError
from compressor.graph_editing import copy_graph, input_specs
from compressor.output_trials import output_errors
from compressor.sensitivity import sensitivities
from compressor.stage_running import Workbench
from compressor.strategy import Candidate
from compressor.tensor_spec import random_inputs

if TYPE_CHECKING:
    from torch.fx import GraphModule

SAMPLES = 2
"""Training samples that errors are predicted on."""

MOST_TRIALS = 192
"""Places that are tried out, evenly spread: a trial takes as long as half the model, so all grow as a square."""

LENGTH = 64
"""Size that their dynamic axis is cut to: all tensors on the way are kept."""


def at_the_output(
    bench: Workbench, student: GraphModule, offers: Mapping[str, Sequence[Candidate]]
) -> dict[str, list[Candidate]]:
    """Return the candidates of stages that were asked about one student, with their errors at its output.

    Raises:
        StageError: a candidate disturbs what is no node of the student.
    """
    every = [candidate for candidates in offers.values() for candidate in candidates]
    if not any(candidate.disturbs for candidate in every):
        return {stage: list(candidates) for stage, candidates in offers.items()}
    inputs = list(_inputs(bench, student))
    bench.reporter.say("trying out what errors are worth at the output")
    reach = sensitivities(copy_graph(student), inputs, bench.seed)
    _refuse_unknown(offers, reach)
    tried = _tried(student, every, inputs)
    worth = {stage: _worth(candidates, tried, reach) for stage, candidates in offers.items()}
    in_all = _worth(every, tried, reach) or 1.0
    return {
        stage: [
            replace(each, error=tried.get(id(each), (worth[stage] or in_all) * _estimated(each, reach)))
            if each.disturbs
            else each
            for each in candidates
        ]
        for stage, candidates in offers.items()
    }


def _worth(candidates: Sequence[Candidate], tried: Mapping[int, float], reach: Mapping[str, float]) -> float | None:
    """Return how many times its estimate an error that was tried out is, as a rule; None where none was tried."""
    both = [(tried[id(each)], _estimated(each, reach)) for each in candidates if id(each) in tried]
    ratios = [measured / estimated for measured, estimated in both if estimated > 0]
    return median(ratios) if ratios else None


def _tried(
    student: GraphModule, candidates: Sequence[Candidate], inputs: Sequence[tuple[Tensor, ...]]
) -> dict[int, float]:
    """Return the output's errors of candidates that can be tried out, by identity."""
    by_place: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.replacement is not None and len(candidate.disturbs) == 1 and candidate.error > 0:
            by_place.setdefault(candidate.disturbs[0], []).append(candidate)
    largest = {place: max(several, key=lambda each: each.error) for place, several in by_place.items()}
    chosen = list(largest)[:: len(largest) // MOST_TRIALS + 1]
    trials = {place: each.replacement for place in chosen for each in [largest[place]] if each.replacement is not None}
    measured = output_errors(student, trials, inputs)
    return {
        id(each): measured[place] * each.error / largest[place].error for place in chosen for each in by_place[place]
    }


def _estimated(candidate: Candidate, reach: Mapping[str, float]) -> float:
    return candidate.error * sum(reach[place] for place in candidate.disturbs)


def _refuse_unknown(offers: Mapping[str, Sequence[Candidate]], reach: Mapping[str, float]) -> None:
    for stage, candidates in offers.items():
        for candidate in candidates:
            unknown = [place for place in candidate.disturbs if place not in reach]
            if unknown:
                message = (
                    f"a candidate for '{candidate.layer}' disturbs '{unknown[0]}', which no layer of the student is"
                )
                raise StageError(stage, message)


def _inputs(bench: Workbench, student: GraphModule) -> Iterable[tuple[Tensor, ...]]:
    specs = input_specs(student)
    if bench.data is not None and bench.data.train:
        return calibration_inputs(specs, bench.data.train[:SAMPLES], LENGTH)
    arrays = random_inputs(specs, PROBE_SIZE, seed=bench.seed)
    return [tuple(torch.from_numpy(array) for array in arrays.values())]
