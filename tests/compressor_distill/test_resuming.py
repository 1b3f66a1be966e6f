from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compressor_distill import trainer
from compressor_distill.checkpoint import load_checkpoint, previous, save_checkpoint
from compressor_distill.lesson import Lesson
from compressor_distill.validation import Validated, Validation
from pydantic import PrivateAttr
from torch import Tensor
from torch.fx import GraphModule

from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph
from compressor.strategy import StageContext, StageOutcome
from compressor.testing.tiny_runs import OutputL1
from tests.compressor_distill.short_training import Interrupting, assert_equal_weights, distillation, weights_of


@pytest.mark.parametrize("stop", [1, 4, 6, 7, 11])
def test_a_resumed_training_ends_with_the_same_weights(
    stop: int, student: GraphModule, tiny_context: StageContext, uninterrupted: StageOutcome
) -> None:
    with pytest.raises(KeyboardInterrupt):
        distillation().apply(copy_graph(student), replace(tiny_context, reporter=Interrupting(stop)))
    reporter = Interrupting(999)
    resumed = distillation().apply(copy_graph(student), replace(tiny_context, reporter=reporter))
    assert any(message.startswith("resuming") for message in reporter.said)
    assert_equal_weights(weights_of(resumed), weights_of(uninterrupted))
    known = [(point.phase, point.step, point.validation) for point in uninterrupted.curve]
    assert known == [(point.phase, point.step, point.validation) for point in resumed.curve]


@pytest.mark.parametrize("stop_at", [3, 8])
def test_an_interruption_within_an_update_is_taken_back(
    stop_at: int,
    student: GraphModule,
    tiny_context: StageContext,
    uninterrupted: StageOutcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step: Callable[..., Any] = torch.optim.AdamW.step
    calls: list[int] = []

    def interrupted(optimiser: torch.optim.AdamW, *arguments: Any) -> Any:
        calls.append(1)
        step(optimiser, *arguments)
        if len(calls) == stop_at:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            distillation().apply(copy_graph(student), tiny_context)
    resumed = distillation().apply(copy_graph(student), tiny_context)
    assert_equal_weights(weights_of(resumed), weights_of(uninterrupted))


class StoppingL1(OutputL1):
    """Presses Ctrl-C in one of its computations, in a training step or a validation."""

    stop_at: int
    _calls: list[int] = PrivateAttr(default_factory=list)

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        self._calls.append(1)
        if len(self._calls) == self.stop_at:
            raise KeyboardInterrupt
        return super().compute(student, teacher)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 5, 6, 7, 13, 20])
def test_interruptions_anywhere_lose_nothing(
    stop_at: int, student: GraphModule, tiny_context: StageContext, uninterrupted: StageOutcome
) -> None:
    # A resumed training has the same options: the loss counts on, past the call at which it stopped.
    options = distillation(losses=[StoppingL1(stop_at=stop_at)])
    with pytest.raises(KeyboardInterrupt):
        options.apply(copy_graph(student), tiny_context)
    resumed = options.apply(copy_graph(student), tiny_context)
    assert_equal_weights(weights_of(resumed), weights_of(uninterrupted))


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    path.write_bytes({"cut": content[:middle], "empty": b"", "noise": b"\x8f" * 999, "bit": flipped}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "noise", "bit"])
@pytest.mark.parametrize("both", [False, True])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    how: str, both: bool, student: GraphModule, tiny_context: StageContext, uninterrupted: StageOutcome
) -> None:
    with pytest.raises(KeyboardInterrupt):
        distillation().apply(copy_graph(student), replace(tiny_context, reporter=Interrupting(5)))
    newest = tiny_context.workdir / "checkpoint.pt"
    for path in (newest, previous(newest)) if both else (newest,):
        damage(path, how)
    reporter = Interrupting(999)
    resumed = distillation().apply(copy_graph(student), replace(tiny_context, reporter=reporter))
    taken_up = [message for message in reporter.said if message.startswith("resuming")]
    # Ctrl-C came before the fifth step's checkpoint, and left one of five steps; the one before is of four.
    assert taken_up == ([] if both else ["resuming block-wise at step 4"])
    assert_equal_weights(weights_of(resumed), weights_of(uninterrupted))


@pytest.mark.parametrize("change", ["options", "seed", "data"])
def test_a_checkpoint_of_another_training_is_not_taken(
    change: str, student: GraphModule, tiny_context: StageContext, tiny_dataset: Dataset
) -> None:
    with pytest.raises(KeyboardInterrupt):
        distillation().apply(copy_graph(student), replace(tiny_context, reporter=Interrupting(5)))
    reporter = Interrupting(999)
    context = replace(tiny_context, reporter=reporter)
    if change == "seed":
        context = replace(context, seed=3)
    if change == "data":
        context = replace(context, data=replace(tiny_dataset, identity="other"))
    distillation(batch_size=3 if change == "options" else 2).apply(copy_graph(student), context)
    assert not any(message.startswith("resuming") for message in reporter.said)


def test_a_checkpoint_goes_there_and_back(tmp_path: Path) -> None:
    state = {"identity": "a", "tensor": torch.arange(3.0), "progress": {"step": 4, "best_score": float("inf")}}
    save_checkpoint(tmp_path / "new" / "c.pt", state)
    loaded = load_checkpoint(tmp_path / "new" / "c.pt", "a")
    assert loaded is not None
    assert torch.equal(loaded["tensor"], torch.arange(3.0))
    assert loaded["progress"] == state["progress"]
    assert load_checkpoint(tmp_path / "new" / "c.pt", "b") is None
    assert load_checkpoint(tmp_path / "none.pt", "a") is None


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_a_whole_checkpoint_is_left_whenever_saving_ends(
    moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pt"
    for number in (1, 2):
        save_checkpoint(path, {"identity": "a", "number": number})
    damage(path, "bit")
    left, move = [moves], Path.replace

    def killed(source: Path, target: Path) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return move(source, target)

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(Path, "replace", killed)
        save_checkpoint(path, {"identity": "a", "number": 3})
    loaded = load_checkpoint(path, "a")
    assert loaded is not None
    assert loaded["number"] == (1 if moves == 0 else 3)


def test_a_checkpoint_that_the_disk_cannot_read_gives_way_to_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"identity": "a"})
    path.replace(previous(path))
    path.mkdir()
    assert load_checkpoint(path, "a") is not None


def test_what_a_phase_settles_is_kept_from_its_start(student: GraphModule, tiny_context: StageContext) -> None:
    """A process that dies before its first checkpoint by time goes on with what the clock had decided."""

    class Dying(Interrupting):
        def task(self, label: str, total: int, **_: Any) -> Any:
            if label == "end-to-end":
                raise RuntimeError("the process dies")
            return super().task(label, total)

    options = distillation(checkpoint_seconds=1e6)
    with pytest.raises(RuntimeError):
        options.apply(copy_graph(student), replace(tiny_context, reporter=Dying(999)))
    assert tiny_context.data is not None
    lesson = Lesson.of(options, copy_graph(student), tiny_context, tiny_context.data)
    kept = load_checkpoint(lesson.checkpoint, lesson.identity)
    assert kept is not None
    assert (kept["progress"]["phase"], kept["progress"]["step"]) == (1, 0)
    assert kept["settled"] is not None


def test_what_auto_meant_at_first_is_meant_on_another_machine(
    student: GraphModule, tiny_context: StageContext, uninterrupted: StageOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = distillation(precision="auto")
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "chosen_precision", lambda *_: "fp32")
        with pytest.raises(KeyboardInterrupt):
            options.apply(copy_graph(student), replace(tiny_context, reporter=Interrupting(4)))
    monkeypatch.setattr(trainer, "chosen_precision", lambda *_: "bf16")
    assert_equal_weights(weights_of(options.apply(copy_graph(student), tiny_context)), weights_of(uninterrupted))


def test_ctrl_c_in_the_last_validation_is_heard(
    student: GraphModule, tiny_context: StageContext, uninterrupted: StageOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    validations, validate = [], Validation.of

    def pressed(validation: Validation, shown: GraphModule) -> Validated:
        validations.append(1)
        if len(validations) == len(uninterrupted.curve):
            signal.raise_signal(signal.SIGINT)
        return validate(validation, shown)

    monkeypatch.setattr(Validation, "of", pressed)
    with pytest.raises(KeyboardInterrupt):
        distillation().apply(copy_graph(student), tiny_context)
    resumed = distillation().apply(copy_graph(student), tiny_context)
    assert_equal_weights(weights_of(resumed), weights_of(uninterrupted))
