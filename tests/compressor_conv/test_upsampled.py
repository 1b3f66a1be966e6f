from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_conv.upsampled import NearestUpsampling, Upsampled, nearest_kernel, why_not
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import signal
from torch import Tensor, nn

from compressor.dataset import Dataset, Sample
from compressor.graph_editing import copy_graph, module_nodes, parameter_count
from compressor.onnx_export import export_onnx
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, traced
from compressor.testing.tiny_runs import stage_context
from compressor.verification import check_export

Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d
UPSAMPLE = TransposedToStandardConv(mode="upsample")


@st.composite
def transposed_convolutions(draw: st.DrawFn, longest_stride: int = 4) -> Transposed:
    """Draw a transposed convolution that does not crop more than its kernel reaches, with random weights."""
    axes = draw(st.integers(1, 2))
    kernel, stride, dilation = ([draw(st.integers(1, most)) for _ in range(axes)] for most in (5, longest_stride, 2))
    reach = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
    padding = [draw(st.integers(0, most)) for most in reach]
    more = [draw(st.integers(0, max(each) - 1)) for each in zip(stride, dilation, strict=True)]
    kind: Any = nn.ConvTranspose1d if axes == 1 else nn.ConvTranspose2d
    module: Transposed = kind(
        draw(st.integers(1, 3)), 2, kernel, stride, padding, more, bias=draw(st.booleans()), dilation=dilation
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def in_double(form: Upsampled, value: Tensor) -> Tensor:
    """Return what up-sampling and its convolution make of a value."""
    with torch.no_grad():
        for module in form.chain.values():
            value = module.double()(value)
    return value


def smeared(plain: NDArray[np.float64], stride: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the transposed kernel (in, out, *taps) that repeating values and a plain kernel (out, in, *taps) are."""
    axes = tuple(range(2, plain.ndim))
    kernel = signal.convolve(np.flip(plain, axes).swapaxes(0, 1), np.ones((1, 1, *stride)))
    return np.ascontiguousarray(kernel, np.float64)


@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3), st.integers(0, 99))
def test_kernels_without_a_checkerboard_are_kept_exactly(
    axes: int, taps: int, stride: int, padding: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    kernel = smeared(random.standard_normal((2, 3, *(taps,) * axes)), (stride,) * axes)
    size = kernel.shape[2:]
    assume(padding < size[0])
    kind: Any = nn.ConvTranspose1d if axes == 1 else nn.ConvTranspose2d
    module = kind(3, 2, size, stride, padding, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(kernel))
    value = torch.from_numpy(random.standard_normal((1, 3, *(6,) * axes)))
    form, lost = nearest_kernel(module)
    with torch.no_grad():
        wanted = module(value)
    # The weights are held in float32.
    torch.testing.assert_close(in_double(form, value), wanted, atol=1e-5, rtol=1e-5)
    assert lost < 1e-12


@given(transposed_convolutions())
def test_what_is_lost_of_a_kernel_is_the_energy_of_the_error_of_an_impulse(module: Transposed) -> None:
    form, lost = nearest_kernel(module)
    axes = module.weight.dim() - 2
    # Far from the ends, one input channel at a time.
    impulses = torch.zeros(module.in_channels, module.in_channels, *(25,) * axes, dtype=torch.float64)
    for channel in range(module.in_channels):
        impulses[(channel, channel, *(12,) * axes)] = 1.0
    module.bias = form.conv.bias = None
    with torch.no_grad():
        wanted = module.double()(impulses)
    found = in_double(form, impulses)
    assert found.shape == wanted.shape
    assert lost == pytest.approx(float((found - wanted).square().sum() / wanted.square().sum()), abs=1e-6)


@given(transposed_convolutions(), st.integers(1, 4))
def test_no_kernel_of_that_size_is_nearer(module: Transposed, seed: int) -> None:
    form, _ = nearest_kernel(module)
    generator = torch.Generator().manual_seed(seed)
    impulse = torch.zeros(1, module.in_channels, *(25,) * (module.weight.dim() - 2), dtype=torch.float64)
    impulse[(0, 0, *(12,) * (module.weight.dim() - 2))] = 1.0

    def error() -> float:
        with torch.no_grad():
            return float((in_double(form, impulse) - module.double()(impulse)).square().sum())

    nearest = error()
    with torch.no_grad():
        form.conv.weight += 0.1 * torch.randn(form.conv.weight.shape, generator=generator)
    assert error() >= nearest


@given(transposed_convolutions(longest_stride=1))
def test_without_a_stride_nothing_is_lost_or_repeated(module: Transposed) -> None:
    form, lost = nearest_kernel(module)
    value = torch.randn(1, module.in_channels, *(11,) * (module.weight.dim() - 2), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(in_double(form, value), module.double()(value))
    assert list(form.chain) == ["_convolution"]
    assert lost < 1e-12


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.ConvTranspose1d(4, 4, 4, 2, groups=2), "it has 2 groups"),
        (nn.ConvTranspose1d(4, 4, 3, 2, 4), "it crops more than its kernel reaches"),
        (nn.ConvTranspose1d(4, 4, 3, 2, 2), ""),
    ],
)
def test_what_cannot_be_written_so(module: Transposed, reason: str) -> None:
    assert why_not(module) == reason


def test_values_are_repeated_along_time_whatever_the_rank() -> None:
    value = torch.randn(2, 3, 5)
    wanted = value.repeat_interleave(4, dim=2)
    upsampling = NearestUpsampling((4,))
    torch.testing.assert_close(upsampling(value), wanted, atol=0, rtol=0)
    torch.testing.assert_close(upsampling(value.unsqueeze(2)), wanted.unsqueeze(2), atol=0, rtol=0)
    image = NearestUpsampling((2, 3))(value.unsqueeze(1))
    wanted = value.unsqueeze(1).repeat_interleave(2, dim=2).repeat_interleave(3, dim=3)
    torch.testing.assert_close(image, wanted, atol=0, rtol=0)


def test_a_graph_of_plain_convolutions_and_what_it_lost(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    outcome = UPSAMPLE.apply(copy_graph(tiny_teacher.graph), tiny_context)
    assert not list(module_nodes(outcome.student, nn.ConvTranspose1d))
    assert outcome.student(torch.zeros(1, 8, 10)).shape == (1, 1, 80)
    assert [finding.layer for finding in outcome.findings] == ["ups/0/ConvTranspose", "ups/1/ConvTranspose"]
    # 8 taps and stride 4 become 11, 4 taps and stride 2 become 5.
    added = [finding.values["weights_added"] for finding in outcome.findings]
    assert added == [16 * 12 * (11 - 8), 12 * 8 * (5 - 4)]
    assert parameter_count(outcome.student) - parameter_count(tiny_teacher.graph) == sum(added)
    assert outcome.findings[0].message.endswith("of the output's energy is lost, 576 weights added")


def layer_error(model: nn.Module, student: nn.Module, samples: Sequence[Sample]) -> float:
    """Return the error's share of the output's energy over samples, from torch's own layers."""
    wanted, found = (
        torch.cat([net(torch.from_numpy(sample.inputs["input_1"])).detach().flatten() for sample in samples])
        for net in (model, student)
    )
    return float((found - wanted).square().sum() / wanted.square().sum())


@pytest.fixture
def alternating(tmp_path: Path, tiny_teacher: Teacher) -> tuple[nn.Sequential, StageContext]:
    """Return one transposed convolution, and samples whose values change their sign from one to the next."""
    random = np.random.default_rng(0)
    walks = random.standard_normal((6, 1, 4, 60)).cumsum(-1) * (-1.0) ** np.arange(60)
    samples = tuple(Sample(str(number), {"input_1": walk.astype(np.float32)}) for number, walk in enumerate(walks))
    data = Dataset(train=samples, validation=samples[:1], identity="walks")
    return chain(nn.ConvTranspose1d(4, 3, 6, 3, 2, 1)), stage_context(tiny_teacher, data, tmp_path)


def test_data_decide_what_is_kept(alternating: tuple[nn.Sequential, StageContext]) -> None:
    model, context = alternating
    assert context.data is not None
    graph = traced(model, (1, 4, "time"))
    fitted, free = (
        TransposedToStandardConv(mode="upsample", calibration_samples=samples).apply(copy_graph(graph), context)
        for samples in (4, 0)
    )
    assert free.findings[0].message.split(" lost")[0].endswith("of the kernel's energy is")
    seen, unseen = context.data.train[:4], context.data.train[4:]
    assert fitted.findings[0].values["relative_error"] == pytest.approx(
        layer_error(model, fitted.student, seen), rel=1e-3
    )
    assert layer_error(model, fitted.student, unseen) < 0.8 * layer_error(model, free.student, unseen)


def test_what_cannot_be_rewritten_is_left_and_told(tiny_context: StageContext) -> None:
    model = chain(nn.ConvTranspose1d(4, 4, 4, 2, groups=2), nn.ConvTranspose1d(4, 2, 4, 2, 1))
    outcome = TransposedToStandardConv(mode="upsample", calibration_samples=0).apply(
        traced(model, (1, 4, "time")), tiny_context
    )
    assert outcome.findings[0].message == "left as it is: it has 2 groups"
    assert [module.groups for _, module in module_nodes(outcome.student, nn.ConvTranspose1d)] == [2]


def kinds(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(content).graph.node]


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_the_file_repeats_and_convolves_and_runs_as_torch(
    opset: int, tiny_teacher: Teacher, tiny_context: StageContext
) -> None:
    student = UPSAMPLE.apply(copy_graph(tiny_teacher.graph), tiny_context).student
    content = export_onnx(student, opset)
    assert kinds(content).count("Resize") == 2
    assert not {"ConvTranspose", "Reshape", "Transpose"} & set(kinds(content))
    check_export(content, student)


def test_in_two_dimensions_nothing_is_reshaped_on_the_way(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    flat = UPSAMPLE.apply(copy_graph(tiny_teacher.graph), tiny_context).student
    wide = Conv1dToConv2d().apply(copy_graph(flat), tiny_context).student
    content = export_onnx(wide)
    reshaping = [kind for kind in kinds(content) if kind in ("Reshape", "Transpose", "Squeeze", "Unsqueeze")]
    assert reshaping == ["Unsqueeze", "Squeeze"]
    assert kinds(content).count("Resize") == 2
    check_export(content, wide)
    value = torch.randn(1, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(wide(value), flat(value), atol=1e-5, rtol=1e-4)


def test_images(tiny_context: StageContext) -> None:
    module = nn.ConvTranspose2d(2, 3, (3, 4), (2, 3), (1, 2), (1, 0))
    before = traced(chain(module, nn.ReLU(), nn.Conv2d(3, 1, 3)), (1, 2, 4, "time"))
    strategy = TransposedToStandardConv(mode="upsample", calibration_samples=0)
    after = strategy.apply(copy_graph(before), tiny_context).student
    value = torch.randn(1, 2, 4, 9)
    assert after(value).shape == before(value).shape
    check_export(export_onnx(after), after)
