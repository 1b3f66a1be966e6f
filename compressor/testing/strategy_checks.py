"""`check_strategy`: what the core relies on in every strategy."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compressor.calibration import PROBE_SIZE
from compressor.dataset import Dataset
from compressor.errors import CompressorError, VerificationError
from compressor.finishing import check_file
from compressor.graph_editing import copy_graph, feed, input_specs, parameter_count
from compressor.measuring import MeasuredModel
from compressor.onnx_export import export_onnx
from compressor.stored_model import onnx_session
from compressor.strategy import (
    BudgetedStrategy,
    Candidate,
    FileStrategy,
    Finding,
    StageContext,
    StageOutcome,
    Strategy,
)
from compressor.teacher_loading import Teacher
from compressor.tensor_spec import random_inputs
from compressor.testing.failures import CheckFailedError, check, check_options
from compressor.testing.tiny_runs import stage_context, tiny_teacher
from compressor.testing.tiny_vocoder import dataset
from compressor.verification import PROOF_SIZES, check_export, check_stage

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule

TRIED_CANDIDATES = 6
"""Candidates of a budgeted strategy that are carried out; spread over all that it offers."""
TRUSTED = (0.5, 2.0)
"""What a choice saves, as shares of what its candidate said: the core corrects what lies between."""


def check_strategy(
    strategy: Strategy,
    teacher: Teacher | None = None,
    data: Dataset | None = None,
    *,
    student: GraphModule | None = None,
    choices: Mapping[str, Any] | None = None,
    repeatable: bool = True,
) -> StageOutcome:
    """Apply a strategy and hold it against what the core relies on; returns what it made.

    It is applied twice, with the same seed: both must come to the same. The student must take the teacher's inputs,
    put out as much as the teacher does, export, and equal the exported file in onnxruntime. The teacher must stay as it
    is. A strategy that says that it keeps the output must do so; one that trains must change weights only; one that
    spends a budget must do nothing untold, and save about what its candidates say.

    Args:
        strategy: with the options to try.
        teacher: a tiny HiFi-GAN if left out.
        data: mels for the tiny HiFi-GAN if left out.
        student: what the stages before would have made; a copy of the teacher if left out.
        choices: what a budget chose, by layer; for a strategy that spends one its own first candidate if left out.
        repeatable: False for a strategy that chooses by the clock.

    Raises:
        CheckFailedError: says what does not hold, and what to do.
    """
    name = check_options(strategy, Strategy)
    teacher = teacher or tiny_teacher()
    data = data or dataset(teacher.content)
    before = student or teacher.graph
    if isinstance(strategy, FileStrategy):
        return _check_on_file(strategy, before, teacher, data)
    with tempfile.TemporaryDirectory() as folder:
        context = stage_context(teacher, data, Path(folder) / "stage", stage=name)
        if choices is None and isinstance(strategy, BudgetedStrategy) and not strategy.fixed:
            choices = _check_candidates(strategy, before, context)
        context = stage_context(teacher, data, Path(folder) / "stage", stage=name, choices=choices or {})
        own = _weights(teacher.graph)
        outcome = strategy.apply(copy_graph(before), context)
        _check_outcome(name, outcome)
        _check_equal(name, _weights(teacher.graph), own, "the teacher's", "work on the student, which is a copy")
        if repeatable:
            again = stage_context(teacher, data, Path(folder) / "again", stage=name, choices=choices or {})
            repeated = _weights(strategy.apply(copy_graph(before), again).student)
            remedy = "draw random numbers from context.seed alone"
            _check_equal(name, repeated, _weights(outcome.student), "applied again with the same seed, the", remedy)
    _check_place(name, outcome.student, teacher)
    _check_promises(strategy, before, outcome.student)
    return outcome


def _check_on_file(strategy: FileStrategy, student: GraphModule, teacher: Teacher, data: Dataset) -> StageOutcome:
    """Check what a strategy makes of a student's file: twice the same, with findings, in the teacher's place."""
    content = export_onnx(copy_graph(student), teacher.opset)
    with tempfile.TemporaryDirectory() as folder:
        context = stage_context(teacher, data, Path(folder) / "stage", stage=strategy.name)
        outcome, again = (strategy.rewrite(content, copy_graph(student), context) for _ in range(2))
    name = strategy.name
    check(bool(outcome.findings), f"{name}: no finding; say what was done to which layer, or why nothing was")
    check(not strategy.preserves_output, f"{name}: preserves_output is for strategies on graphs; no file is proven")
    try:
        check_file(content, outcome.content, input_specs(student))
    except ValueError as error:
        raise CheckFailedError(f"{name}: the file does not take the student's place: {error}") from error
    after, repeated = (onnx_session(each) for each in (outcome.content, again.content))
    for size in PROOF_SIZES:
        arrays = random_inputs(input_specs(student), size, seed=size)
        found, other = (session.run(None, arrays) for session in (after, repeated))
        check(
            len(found) == len(other) and all(np.array_equal(a, b) for a, b in zip(found, other, strict=True)),
            f"{name}: applied again it computes something else; draw random numbers from context.seed alone",
        )
    return StageOutcome(student, outcome.findings)


def _weights(graph: GraphModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in graph.state_dict().items()}


def _check_outcome(name: str, outcome: object) -> None:
    check(
        isinstance(outcome, StageOutcome), f"{name}: apply returned {type(outcome).__name__}, expected a StageOutcome"
    )
    if isinstance(outcome, StageOutcome):
        findings = outcome.findings
        check(
            isinstance(findings, tuple) and all(isinstance(each, Finding) for each in findings),
            f"{name}: findings are {findings!r}, expected a tuple of Finding",
        )
        check(bool(findings), f"{name}: no finding; say what was done to which layer, or why nothing was")


def _check_equal(name: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], whose: str, remedy: str) -> None:
    changed = [
        key
        for key in {**wanted, **found}
        if key not in found or key not in wanted or not torch.equal(found[key], wanted[key])
    ]
    shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    check(not changed, f"{name}: {whose} weights differ ({shown}); {remedy}")


def _check_place(name: str, student: GraphModule, teacher: Teacher) -> None:
    """Check that the student takes the teacher's place, as a graph and as a file."""
    student = copy_graph(student).eval()
    for size in PROOF_SIZES:
        values = tuple(torch.from_numpy(array) for array in random_inputs(teacher.inputs, size, seed=size).values())
        try:
            made = feed(student, values)
        except Exception as error:
            raise CheckFailedError(f"{name}: the student does not run at size {size}: {error}") from error
        expected = feed(teacher.graph, values)
        check(
            len(made) == len(expected),
            f"{name}: the student has {len(made)} outputs, the teacher {len(expected)}; a student drops into its "
            "teacher's place",
        )
        for found, wanted in zip(made, expected, strict=True):
            check(
                found.numel() == wanted.numel(),
                f"{name}: at size {size} the student puts out {tuple(found.shape)}, the teacher {tuple(wanted.shape)}; "
                "a student drops into its teacher's place",
            )
            check(
                bool(torch.isfinite(found).all()),
                f"{name}: at size {size} the student puts out values that are not finite",
            )
    try:
        check_export(export_onnx(student, teacher.opset), student)
    except CompressorError as error:
        raise CheckFailedError(f"{name}: the student cannot be written as ONNX: {error}") from error


def _check_promises(strategy: Strategy, before: GraphModule, after: GraphModule) -> None:
    name = strategy.name
    if strategy.preserves_output:
        try:
            check_stage(name, before, after, input_specs(before))
        except VerificationError as error:
            raise CheckFailedError(f"{name}: it says preserves_output = True, but {error}") from error
    if strategy.keeps_structure:
        costs = parameter_count(before), parameter_count(after)
        check(
            costs[0] == costs[1], f"{name}: it says keeps_structure = True, but {costs[0]} parameters became {costs[1]}"
        )
    if strategy.trains:
        restored = copy_graph(before)
        try:
            restored.load_state_dict(after.state_dict())
        except RuntimeError as error:
            raise CheckFailedError(
                f"{name}: it says trains = True, but changes more than weights, from which a resumed run restores it: "
                f"{error}"
            ) from error
        values = tuple(torch.from_numpy(array) for array in random_inputs(input_specs(before), PROBE_SIZE).values())
        same = all(torch.equal(a, b) for a, b in zip(feed(restored, values), feed(after, values), strict=True))
        check(
            same, f"{name}: it says trains = True, but its weights in the graph before do not compute what it returned"
        )


def _check_candidates(strategy: BudgetedStrategy, before: GraphModule, context: StageContext) -> dict[str, Any]:
    """Check what a strategy offers to a budget; returns a choice of it."""
    name = strategy.name
    untold = strategy.apply(copy_graph(before), context).student
    remedy = f"without a choice do nothing; '{strategy.fixed_by}' is the option that chooses without a budget"
    _check_equal(name, _weights(untold), _weights(before), "told nothing by a budget, it changes", remedy)
    candidates = list(strategy.candidates(copy_graph(before), context))
    check(
        bool(candidates), f"{name}: it offers no candidate for this student; give check_strategy one that it can change"
    )
    step = max(1, len(candidates) // TRIED_CANDIDATES)
    for candidate in candidates[::step]:
        _check_candidate(strategy, before, context, candidate)
    return {candidates[0].layer: candidates[0].setting}


def _check_candidate(
    strategy: BudgetedStrategy, before: GraphModule, context: StageContext, candidate: Candidate
) -> None:
    what = f"{strategy.name}: the candidate {candidate.layer} = {candidate.setting}"
    check(candidate.error >= 0, f"{what} has an error of {candidate.error}, expected a share of the signal's energy")
    # As in a rehearsal: a choice alone tells what it costs.
    alone = stage_context(context.teacher, None, context.workdir, choices={candidate.layer: candidate.setting})
    after = strategy.apply(copy_graph(before), alone).student
    baseline = MeasuredModel(context.teacher.graph, context.teacher, context.data)
    costs = [MeasuredModel(graph, context.teacher, context.data, baseline) for graph in (before, after)]
    for metric, said in candidate.saving.items():
        if metric not in ("parameters", "macs"):
            continue
        seconds = costs[0].probe_seconds or 1.0 if metric == "macs" else 1.0
        saved = (getattr(costs[0], metric) - getattr(costs[1], metric)) / seconds
        low, high = sorted(share * said for share in TRUSTED)
        # Rounding to whole channels, and layers that share them, cost a few.
        slack = 0.01 * getattr(costs[0], metric) / seconds
        check(
            low - slack <= saved <= high + slack,
            f"{what} says that it saves {said:.6g} {metric} and saves {saved:.6g}; a budget counts on it",
        )
