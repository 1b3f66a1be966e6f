from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import TeacherError
from compressor.region import Region, cut_out, part_before, put_back, resolve

GENERATOR = np.random.default_rng(0)


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(GENERATOR.standard_normal(shape).astype(np.float32), name)


def voice(*, opset: int = 17) -> onnx.ModelProto:
    """Return an encoder, a decoder of two convolutions, and a gain that reads the encoder's output as well."""
    nodes = [
        helper.make_node("Conv", ["x", "enc.weight"], ["latent"], name="/enc/Conv", pads=[1, 1]),
        helper.make_node("Conv", ["latent", "dec.0.weight"], ["hidden"], name="/dec/Conv", pads=[1, 1]),
        helper.make_node("Shape", ["latent"], ["sizes"], name="/Shape"),
        helper.make_node("LeakyRelu", ["hidden"], ["active"], name="/dec/LeakyRelu"),
        helper.make_node("Conv", ["active", "dec.1.weight"], ["made"], name="/dec/Conv_1"),
        helper.make_node("Mul", ["made", "gain"], ["audio"], name="/Mul"),
    ]
    weights = [weight("enc.weight", 4, 3, 3), weight("dec.0.weight", 5, 4, 3), weight("dec.1.weight", 1, 5, 1)]
    weights.append(weight("gain", 1))
    graph = helper.make_graph(
        nodes,
        "voice",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "time"])],
        [
            helper.make_tensor_value_info("audio", TensorProto.FLOAT, [1, 1, "time"]),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, [3]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    helper.set_model_props(model, {"licence": "CC0"})
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


DECODER = Region(("latent",), ("made",))


def test_names_may_be_patterns() -> None:
    assert resolve("voice.onnx", voice(), ["lat*"], ["made"]) == DECODER


@pytest.mark.parametrize(
    ("inputs", "outputs", "problem"),
    [
        (["latnet"], ["made"], "input 'latnet' is no tensor of the model (did you mean 'latent'?)"),
        (["latent"], ["maed"], "output 'maed' is no tensor of the model (did you mean 'made'?)"),
        (["hidden"], ["audio", "sizes"], "the model's input 'x' enters too, read by '/enc/Conv'"),
        (["x"], ["made"], "'latent' leaves too, read by '/Shape': name it as an output"),
        (["x"], ["active"], "'latent' leaves too"),
        (["x", "audio"], ["latent"], "the input 'audio' leads to none of the outputs"),
        (["latent"], ["latent"], "no node lies between"),
    ],
)
def test_a_region_that_is_not_closed_is_refused_with_what_crosses_its_border(
    inputs: list[str], outputs: list[str], problem: str
) -> None:
    with pytest.raises(TeacherError, match="the region cannot be cut out") as caught:
        resolve("voice.onnx", voice(), inputs, outputs)
    assert problem in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(TeacherError) as caught:
        resolve("voice.onnx", voice(), ["nothing"], ["no*thing"])
    assert "'nothing'" in str(caught.value)
    assert "'no*thing'" in str(caught.value)


@pytest.mark.parametrize("time", [1, 9])
def test_the_parts_make_what_the_whole_makes(time: int) -> None:
    model = voice()
    x = GENERATOR.standard_normal((1, 3, time)).astype(np.float32)
    expected = run(model, x=x)[0]
    (latent,) = run(part_before(model, DECODER), x=x)
    region = cut_out(model, DECODER)
    onnx.checker.check_model(region)
    assert [tensor.name for tensor in region.graph.initializer] == ["dec.0.weight", "dec.1.weight"]
    (made,) = run(region, latent=latent)
    gain = numpy_helper.to_array(model.graph.initializer[3])
    np.testing.assert_allclose(made * gain, expected, atol=1e-6)


def test_a_border_that_is_an_input_of_the_model_needs_no_part_before_it() -> None:
    region = resolve("voice.onnx", voice(), ["x"], ["made", "latent"])
    assert region == Region(("x",), ("made", "latent"))
    x = GENERATOR.standard_normal((1, 3, 5)).astype(np.float32)
    assert np.array_equal(run(part_before(voice(), region), x=x)[0], x)


def test_an_unknown_rank_at_the_border_is_told() -> None:
    model = voice()
    model.graph.node[0].op_type, model.graph.node[0].domain = "Mystery", "elsewhere"
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    with pytest.raises(TeacherError, match="number of axes of 'latent' is not known"):
        cut_out(model, DECODER)


def student(*, opset: int = 17) -> onnx.ModelProto:
    """Return a smaller decoder, whose names are those of other tensors of the model."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["latent", "enc.weight"], ["hidden"], name="/enc/Conv"),
            helper.make_node("Tanh", ["hidden"], ["made"]),
        ],
        "student",
        [helper.make_tensor_value_info("latent", TensorProto.FLOAT, [1, 4, "time"])],
        [helper.make_tensor_value_info("made", TensorProto.FLOAT, [1, 1, "time"])],
        [weight("enc.weight", 1, 4, 1)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize(("whole", "part"), [(17, 17), (15, 17), (21, 17)])
def test_a_student_takes_the_regions_place_and_all_else_stays(whole: int, part: int, tmp_path: Path) -> None:
    model, smaller = voice(opset=whole), student(opset=part)
    made = put_back(model, DECODER, smaller)
    assert made.graph.input == model.graph.input
    assert made.graph.output == model.graph.output
    assert made.opset_import == model.opset_import
    assert made.metadata_props == model.metadata_props
    kept = [node for node in made.graph.node if not node.name.startswith("student")]
    assert kept == [node for node in model.graph.node if not node.name.startswith("/dec")]
    assert [tensor.name for tensor in made.graph.initializer] == ["enc.weight", "gain", "student/enc.weight"]
    x = GENERATOR.standard_normal((1, 3, 7)).astype(np.float32)
    (latent,) = run(part_before(model, DECODER), x=x)
    gain = numpy_helper.to_array(model.graph.initializer[3])
    np.testing.assert_allclose(run(made, x=x)[0], run(smaller, latent=latent)[0] * gain, atol=1e-6)
    path = tmp_path / "whole.onnx"
    onnx.save(made, path)
    onnx.checker.check_model(str(path), full_check=True)


def test_putting_the_region_itself_back_changes_no_number() -> None:
    model = voice()
    made = put_back(model, DECODER, cut_out(model, DECODER))
    x = GENERATOR.standard_normal((1, 3, 7)).astype(np.float32)
    assert all(np.array_equal(one, other) for one, other in zip(run(made, x=x), run(model, x=x), strict=True))


def test_a_model_whose_nodes_come_in_another_order_is_put_together_in_a_right_one() -> None:
    """A node outside the region may come before the region's last and read what its first make."""
    model = voice()
    shape = model.graph.node[2]
    shape.input[0] = "hidden"
    region = resolve("voice.onnx", model, ["latent"], ["made", "hidden"])
    made = put_back(model, region, cut_out(model, region))
    x = GENERATOR.standard_normal((1, 3, 7)).astype(np.float32)
    assert np.array_equal(run(made, x=x)[1], [1, 5, 7])
