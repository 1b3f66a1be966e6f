from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pytest
from compressor_conv.two_dimensional import Conv1dToConv2d
from hypothesis import given
from hypothesis import strategies as st

from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph
from compressor.measuring import MeasuredModel
from compressor.onnx_export import export_onnx
from compressor.stored_model import StoredModel
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.timing import Timings, time_in_turn

SECONDS = st.floats(1e-3, 10.0)


class Machine:
    """A clock, and sessions that set it forward: the first run of a model takes ten times as long as its second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[tuple[bytes, int]] = []
        self.given: list[dict[str, Any]] = []

    def session(self, model: bytes | StoredModel, threads: int) -> Machine.Session:
        content = model.content() if isinstance(model, StoredModel) else model
        return Machine.Session(self, content, threads)

    class Session:
        def __init__(self, machine: Machine, content: bytes, threads: int) -> None:
            self.machine, self.content, self.threads, self.runs = machine, content, threads, 0

        def run(self, outputs: None, inputs: dict[str, Any]) -> None:
            self.runs += 1
            self.machine.ran.append((self.content, self.threads))
            self.machine.given.append(inputs)
            self.machine.now += 10.0 * len(self.content) if self.runs == 1 else len(self.content) * self.runs


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.setattr("compressor.timing.onnx_session", found.session)
    monkeypatch.setattr("time.perf_counter", lambda: found.now)
    return found


def test_models_run_in_turn_and_the_first_run_does_not_count(machine: Machine) -> None:
    found = time_in_turn([(b"aa", {"x": 1}), (b"bbb", {"y": 2})], threads=3, runs=2)
    assert found == [(4.0, 6.0), (6.0, 9.0)]
    assert machine.ran == [(b"aa", 3), (b"bbb", 3)] * 3
    assert machine.given == [{"x": 1}, {"y": 2}] * 3


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=9), st.floats(0.1, 10.0))
def test_the_speedup_is_that_of_a_run_beside_the_teacher_s(runs: list[tuple[float, float]], slower: float) -> None:
    model, teacher = zip(*runs, strict=True)
    timings = Timings(model, teacher)
    assert timings.seconds == median(model)
    assert min(after / before for before, after in runs) <= timings.speedup
    assert timings.speedup <= max(after / before for before, after in runs)
    # A machine that is slower for both tells the same.
    drifted = Timings(tuple(slower * each for each in model), tuple(slower * each for each in teacher))
    assert drifted.speedup == pytest.approx(timings.speedup)
    one, other = (each.as_if_teacher_took(2.0) for each in (timings, drifted))
    assert one.seconds == pytest.approx(other.seconds)
    assert one.speedup == pytest.approx(timings.speedup)
    if len(runs) % 2:
        assert one.seconds == pytest.approx(2.0 / timings.speedup)


def test_one_slow_run_does_not_count() -> None:
    assert Timings((1.0, 50.0, 1.0), (2.0, 2.0, 2.0)).speedup == 2.0
    assert Timings((1.0, 50.0, 1.0), (2.0, 100.0, 2.0)).speedup == 2.0
    assert Timings((1.0, 50.0, 1.5), (2.0, 2.0, 2.0)).seconds == 1.5


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[bytes | StoredModel], int, int]]:
    """Return the list of what is timed; nothing runs."""
    calls: list[tuple[list[bytes | StoredModel], int, int]] = []

    def record(models: Sequence[tuple[bytes, Mapping[str, Any]]], threads: int, runs: int) -> list[tuple[float, ...]]:
        calls.append(([content for content, _ in models], threads, runs))
        return [(float(at + 1),) for at in range(len(models))]

    monkeypatch.setattr("compressor.measuring.time_in_turn", record)
    return calls


def test_a_student_is_timed_beside_its_teacher_and_once(
    tiny_teacher: Teacher, tiny_dataset: Dataset, timed: list[tuple[list[bytes | StoredModel], int, int]]
) -> None:
    baseline = MeasuredModel(tiny_teacher.graph, tiny_teacher, tiny_dataset)
    student = MeasuredModel(copy_graph(tiny_teacher.graph), tiny_teacher, tiny_dataset, baseline)
    # Beside the student the teacher takes 2 s, and at first it took 1 s: the machine has become slower since.
    assert student.timed(1, 5) == Timings((0.5,), (1.0,))
    assert student.timed(1, 5) is student.timed(1, 5)
    student.timed(2, 5)
    files = [export_onnx(student.graph, tiny_teacher.opset, slim=False), tiny_teacher.stored]
    alone = [tiny_teacher.stored]
    assert timed == [(files, 1, 5), (alone, 1, 5), (files, 2, 5), (alone, 2, 5)]


def test_the_teacher_is_as_fast_as_itself(
    tiny_teacher: Teacher, tiny_dataset: Dataset, timed: list[tuple[list[bytes | StoredModel], int, int]]
) -> None:
    baseline = MeasuredModel(tiny_teacher.graph, tiny_teacher, tiny_dataset)
    assert baseline.timed(1, 5).speedup == 1.0
    assert timed == [([tiny_teacher.stored], 1, 5)]


def test_the_file_is_timed_where_it_was_asked_for(
    tiny_teacher: Teacher, tiny_dataset: Dataset, timed: list[tuple[list[bytes | StoredModel], int, int]]
) -> None:
    baseline = MeasuredModel(tiny_teacher.graph, tiny_teacher, tiny_dataset)
    student = MeasuredModel(copy_graph(tiny_teacher.graph), tiny_teacher, tiny_dataset, baseline)
    content = student.onnx_bytes
    student.timed(1, 5)
    assert timed[0] == ([content, tiny_teacher.stored], 1, 5)


def test_by_nodes_the_teacher_always_takes_the_same(
    tiny_teacher: Teacher,
    tiny_dataset: Dataset,
    timed: list[tuple[list[bytes | StoredModel], int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Beside the student the teacher takes 4 s, and by itself, by whole runs, it took 1 s.
    found = [[{"n": 2.0, "m": 6.0}, {"a": 1.0, "b": 3.0}]]
    monkeypatch.setattr("compressor.measuring.nodes_in_turn", lambda *_: found.pop())
    baseline = MeasuredModel(tiny_teacher.graph, tiny_teacher, tiny_dataset)
    student = MeasuredModel(copy_graph(tiny_teacher.graph), tiny_teacher, tiny_dataset, baseline, by_nodes=True)
    assert student.time_by_layer(1, 5) == {"": 2.0}
    assert student.timed(1, 5) == Timings((2.0,), (1.0,))
    assert timed == [([tiny_teacher.stored], 1, 5)]


def test_a_student_in_the_image_form_runs_on_the_teacher_s_values(
    tiny_teacher: Teacher, tiny_dataset: Dataset, tiny_context: StageContext, machine: Machine
) -> None:
    image = Conv1dToConv2d(input_shape="image").apply(copy_graph(tiny_teacher.graph), tiny_context).student
    baseline = MeasuredModel(tiny_teacher.graph, tiny_teacher, tiny_dataset)
    MeasuredModel(image, tiny_teacher, tiny_dataset, baseline).timed(1, 1)
    own, teacher = machine.given[:2]
    assert own["mel"].shape == (1, 1, 8, 100)
    assert teacher["mel"].shape == (1, 8, 100)
    assert (own["mel"].reshape(-1) == teacher["mel"].reshape(-1)).all()
