from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.calibration import PROBE_SIZE, calibration_inputs, layer_positions, observe, readings, varying_share
from compressor.dataset import Dataset, Sample
from compressor.graph_editing import copy_graph
from compressor.layer_costs import layer_costs
from compressor.teacher_loading import Teacher
from compressor.tensor_spec import TensorSpec
from compressor.testing.small_graphs import chain, samples_of, traced


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_calibration_inputs_are_cut_where_they_may_be() -> None:
    sample = Sample("long", {"mel": np.zeros((1, 8, 300), np.float32), "voice": np.zeros((1, 400), np.float32)})
    specs = (TensorSpec("voice", (1, 400)), TensorSpec("mel", (1, 8, "frames")))
    ((voice, mel),) = calibration_inputs(specs, [sample], longest=50)
    assert voice.shape == (1, 400)
    assert mel.shape == (1, 8, 50)


def test_a_layer_s_hook_gets_what_it_reads_and_puts_out(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    student = copy_graph(tiny_teacher.graph)
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    mels = [torch.from_numpy(sample.inputs["mel"]) for sample in tiny_dataset.train[:2]]
    observe(
        student,
        {"conv_pre/Conv": lambda module, inputs, output: seen.append((module, inputs[0], output))},
        [(mel,) for mel in mels],
    )
    layer = student.get_submodule("conv_pre/Conv")
    assert [module for module, _, _ in seen] == [layer, layer]
    for (_, read, output), mel in zip(seen, mels, strict=True):
        assert torch.equal(read, mel)
        assert not output.requires_grad
        torch.testing.assert_close(output, layer(mel))
    student(mels[0])
    assert len(seen) == 2


def test_hooks_are_taken_away_after_a_failure(tiny_teacher: Teacher) -> None:
    student = copy_graph(tiny_teacher.graph)

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        observe(student, {"conv_pre/Conv": fail}, [(torch.zeros(1, 8, 5),)])
    assert student(torch.zeros(1, 8, 5)).shape == (1, 1, 40)


def test_positions_times_weights_are_the_macs_that_torch_counts(tiny_teacher: Teacher) -> None:
    positions = layer_positions(tiny_teacher.graph, None)
    costs = layer_costs(tiny_teacher.graph)
    assert set(positions) == {cost.layer for cost in costs}
    for cost in costs:
        weight = tiny_teacher.graph.get_submodule(cost.layer).weight
        assert isinstance(weight, Tensor)
        assert positions[cost.layer] * weight.numel() == cost.macs
    # 8 samples a frame at 800 samples a second are 100 frames; a transposed convolution works at what it reads.
    per_second = layer_positions(tiny_teacher.graph, 800)
    assert per_second == {layer: round(count * 100 / PROBE_SIZE) for layer, count in positions.items()}
    assert [per_second[layer] for layer in ("conv_pre/Conv", "ups/1/ConvTranspose", "conv_post/Conv")] == [
        100,
        400,
        800,
    ]


def test_positions_of_linear_layers_are_those_of_the_sequence() -> None:
    graph = traced(chain(nn.Linear(3, 5), nn.Linear(5, 2)), (1, "time", 3))
    assert layer_positions(graph, None) == {"0": PROBE_SIZE, "1": PROBE_SIZE}
    # Two values of output for each position.
    assert layer_positions(graph, 100) == {"0": 50, "1": 50}


def windows(read: NDArray[np.float32], taps: int, dilation: int, padding: int) -> NDArray[np.float64]:
    """Return what a convolution's filters meet at each output position, (positions, channels * taps), by numpy."""
    padded = np.pad(read[0].astype(np.float64), ((0, 0), (padding, padding)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, dilation * (taps - 1) + 1, axis=1)[..., ::dilation]
    return np.asarray(seen.transpose(1, 0, 2).reshape(seen.shape[1], -1))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(0, 99))
@settings(max_examples=25)
def test_readings_are_the_moments_of_all_rows(taps: int, dilation: int, padding: int, seed: int) -> None:
    student = traced(chain(nn.Conv1d(3, 2, taps, padding=padding, dilation=dilation)), (1, 3, "time"))
    arrays = [noise(1, 3, length, seed=seed) + 5.0 for length in (20, 33)]
    (found,) = readings(student, ["0"], samples_of(student, *arrays)).values()
    rows = np.concatenate([windows(array, taps, dilation, padding) for array in arrays])
    np.testing.assert_allclose(found.mean.numpy(), rows.mean(0), rtol=1e-5)
    wanted = np.cov(rows.T, bias=True).reshape(found.covariance.shape)
    np.testing.assert_allclose(found.covariance.numpy(), wanted, atol=1e-4)


def test_a_large_mean_does_not_swamp_small_variations() -> None:
    student = traced(chain(nn.Conv1d(2, 2, 1)), (1, 2, "time"))
    # Steps of 1/64 about a thousand, which float32 holds exactly.
    arrays = [1000.0 + np.round(noise(1, 2, 200, seed=seed)) / 64 for seed in (0, 1)]
    (found,) = readings(student, ["0"], samples_of(student, *arrays)).values()
    wanted = np.cov(np.concatenate([array[0].T for array in arrays]).T, bias=True)
    np.testing.assert_allclose(found.covariance.numpy(), wanted, rtol=1e-3, atol=1e-8)


def test_readings_of_linear_layers_and_of_what_layers_before_made() -> None:
    student = traced(chain(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), (1, "time", 3))
    array = noise(1, 50, 3)
    found = readings(student, ["0", "2"], samples_of(student, array))
    with torch.no_grad():
        inner = torch.tanh(student.get_submodule("0")(torch.from_numpy(array)))[0].double().numpy()
    for layer, rows in (("0", array[0].astype(np.float64)), ("2", inner)):
        np.testing.assert_allclose(found[layer].mean.numpy(), rows.mean(0), atol=1e-6)
        np.testing.assert_allclose(found[layer].covariance.numpy(), np.cov(rows.T, bias=True), atol=1e-6)


def test_layers_that_are_no_matrix_and_layers_not_asked_for_are_left_out() -> None:
    model = chain(nn.Conv1d(2, 2, 3, padding="same"), nn.Conv1d(2, 2, 3), nn.Conv1d(2, 2, 3))
    student = traced(model, (1, 2, "time"))
    found = readings(student, ["0", "1"], samples_of(student, noise(1, 2, 30)))
    assert list(found) == ["1"]


def test_long_samples_are_cut_to_what_says_enough(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    sample = tiny_dataset.train[0]
    longer = replace(sample, inputs={"mel": np.tile(sample.inputs["mel"], (1, 1, 20))})
    cut = replace(sample, inputs={"mel": longer.inputs["mel"][..., :256]})
    (whole,) = readings(tiny_teacher.graph, ["conv_post/Conv"], [longer]).values()
    (short,) = readings(tiny_teacher.graph, ["conv_post/Conv"], [cut]).values()
    assert torch.equal(whole.covariance, short.covariance)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 6, 3, padding=2),
        nn.Conv1d(4, 6, 3, groups=2, bias=False),
        nn.ConvTranspose1d(4, 4, 4, 2),
        nn.Conv1d(4, 2, 1),
    ],
)
def test_how_much_of_an_output_varies(layer: nn.Module) -> None:
    student = traced(chain(layer), (1, 4, "time"))
    array = noise(1, 4, 60) + np.linspace(-0.5, 1.0, 4, dtype=np.float32)[None, :, None]
    (reading,) = readings(student, ["0"], samples_of(student, array)).values()
    with torch.no_grad():
        output = layer(torch.from_numpy(array))[0].double().numpy()
    wanted = output.var(1).sum() / np.square(output).mean(1).sum()
    assert 0.1 < wanted < 0.9
    assert varying_share(layer, reading) == pytest.approx(wanted, rel=1e-4)
