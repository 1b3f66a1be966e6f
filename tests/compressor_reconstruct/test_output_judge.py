"""When outputs count as closer: what is heard, not what is subtracted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compressor_reconstruct.output_judge import OutputJudge, distance

from compressor.graph_editing import copy_graph
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import inputs_of


def noise(seed: int) -> torch.Tensor:
    return torch.randn(1, 1, 8192, generator=torch.Generator().manual_seed(seed))


def test_a_faded_signal_is_further_away_than_one_of_other_phases() -> None:
    wanted, other = noise(0), noise(1)
    faded = 0.1 * other
    assert float((faded - wanted).square().sum()) < float((other - wanted).square().sum())
    assert distance(other, wanted) < distance(faded, wanted)


def test_a_tenth_of_the_magnitude_is_the_logarithm_of_ten() -> None:
    wanted = noise(0)
    found = distance(0.1 * wanted, wanted)
    assert 0.9 * np.log(10) < found < np.log(10)
    assert distance(wanted, wanted) == 0.0


@pytest.mark.parametrize("shape", [(2, 10), (1, 3, 8, 8), (5000,)])
def test_what_is_no_signal_is_compared_value_by_value(shape: tuple[int, ...]) -> None:
    wanted = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert distance(1.1 * wanted, wanted) == pytest.approx(0.01, rel=1e-4)


def test_the_teacher_is_at_no_distance_from_itself(tiny_teacher: Teacher) -> None:
    judge = OutputJudge(tiny_teacher.graph, [inputs_of(tiny_teacher.graph, 40, seed=seed) for seed in range(2)])
    student = copy_graph(tiny_teacher.graph)
    assert judge.distance(student) == 0.0
    with torch.no_grad():
        student.get_submodule("conv_post/Conv").get_parameter("weight").mul_(0.5)
    assert judge.distance(student) > 0.1
