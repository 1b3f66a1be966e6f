"""The recipe that `compress doctor` proposes is one, and has what the model and the files beside it tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from compressor.cut_points import RegionFact
from compressor.doctor import examine
from compressor.first_recipe import F0_VOCODER, MEL_VOCODER, PIPER_VOICE, VocoderFact, first_recipe
from compressor.plan_loading import load_plan
from compressor.plugin_catalog import load_catalog
from compressor.tensor_spec import TensorSpec

MEL = TensorSpec("mel", (1, 80, "frames"))
VOCODER = VocoderFact(MEL_VOCODER, 256, 22050, "vocoder.yaml", {"hop_length": 256, "n_mels": 80})
PART = RegionFact("/a", "/b", 10, 2)
PIPER_REGION = frozenset({"/Add_output_0", "/Cast_2_output_0", "/dec/Tanh_output_0"})


def proposed(
    vocoder: VocoderFact | None,
    *,
    parts: tuple[RegionFact, ...] = (PART,),
    inputs: int = 1,
    tensors: frozenset[str] = frozenset(),
    loads: bool = True,
) -> str:
    return first_recipe("model.onnx", vocoder, parts, (MEL,) * inputs, tensors, loads=loads)


def shipped(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(f"recipes/{name}.yaml").read_text(encoding="utf-8"))
    return content


def test_a_vocoder_gets_the_stages_that_ship() -> None:
    recipe = yaml.safe_load(proposed(VOCODER))
    assert recipe["stages"] == shipped("hifigan_student")["stages"]
    assert recipe["budget"] == shipped("hifigan_student")["budget"]
    assert recipe["data"] == {"speech-folder": {"path": "recordings"}}
    assert not proposed(VOCODER).startswith("#")


def test_what_is_known_of_its_mel_is_in_the_recipe_and_what_is_not_is_said() -> None:
    singing = {"sample_rate": 44100, "hop_length": 512, "n_mels": 128, "fmin": 40, "log": "10"}
    told = proposed(replace(VOCODER, mel=singing, described_by=""))
    assert yaml.safe_load(told)["data"]["speech-folder"]["mel"] == singing
    assert "goes under `mel`" in told.splitlines()[1]


def test_a_piper_voice_gets_its_own_recipe_where_it_has_the_names_of_the_region() -> None:
    voice = replace(VOCODER, kind=PIPER_VOICE)
    known = yaml.safe_load(proposed(voice, tensors=PIPER_REGION))
    own = shipped("piper_voice")
    assert known["teacher"] == {"onnx": "model.onnx", "region": own["teacher"]["region"]}
    assert (known["stages"], known["budget"]) == (own["stages"], own["budget"])
    assert "licence" not in known
    other = yaml.safe_load(proposed(voice))
    assert other["teacher"]["region"] == {"inputs": ["/a"], "outputs": ["/b"]}
    assert other["data"] == "piper-phonemes"


@pytest.mark.parametrize(
    ("vocoder", "inputs", "said"),
    [(None, 1, "array-folder"), (replace(VOCODER, kind=F0_VOCODER), 2, "compress recipes copy nsf_hifigan_student")],
)
def test_any_other_model_gets_exact_stages_and_a_word_of_what_else_there_is(
    vocoder: VocoderFact | None, inputs: int, said: str
) -> None:
    told = proposed(vocoder, inputs=inputs)
    assert yaml.safe_load(told) == {"teacher": "model.onnx", "stages": ["fold", "fastest-exact-form"]}
    assert said in told


def test_what_does_not_load_gets_its_largest_region_or_nothing() -> None:
    assert yaml.safe_load(proposed(None, loads=False))["teacher"]["region"]["inputs"] == ["/a"]
    assert proposed(None, loads=False, parts=()) == ""


def test_a_described_vocoders_recipe_passes_all_checks(tiny_onnx: Path, tmp_path: Path) -> None:
    model = tmp_path / "tiny.onnx"
    model.write_bytes(tiny_onnx.read_bytes())
    described = {"sample_rate": 8000, "hop_size": 8, "win_size": 64, "fft_size": 64, "mel_fmin": 0, "mel_fmax": 4000}
    (tmp_path / "vocoder.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    path = tmp_path / "first.yaml"
    path.write_text(examine(str(model), load_catalog().converters).recipe, encoding="utf-8")
    assert load_plan(path).recipe.data is not None
    mel = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["speech-folder"]["mel"]
    assert {key: mel[key] for key in ("sample_rate", "hop_length", "n_fft", "fmax")} == {
        "sample_rate": 8000,
        "hop_length": 8,
        "n_fft": 64,
        "fmax": 4000,
    }
    assert mel["n_mels"] > 1


@pytest.mark.parametrize(
    ("described", "option", "value"),
    [
        ({"mel_base": 10}, "log", "10"),
        ({"mel_base": 10.0}, "log", "10"),
        ({"fft_size": 512}, "win_length", 512),
        ({"win_size": 2048}, "n_fft", 2048),
        ({"mel_scale": "HTK"}, "mel_scale", "htk"),
        ({"sample_rate": 12000}, "fmax", 6000),
    ],
)
def test_a_description_is_put_as_recipes_have_it(
    tiny_onnx: Path, tmp_path: Path, described: dict[str, Any], option: str, value: object
) -> None:
    model = tmp_path / "tiny.onnx"
    model.write_bytes(tiny_onnx.read_bytes())
    (tmp_path / "vocoder.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    path = tmp_path / "first.yaml"
    path.write_text(examine(str(model), load_catalog().converters).recipe, encoding="utf-8")
    assert load_plan(path).recipe.data is not None
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["speech-folder"]["mel"][option] == value


def test_windows_are_no_shorter_than_a_hop() -> None:
    mel = yaml.safe_load(proposed(replace(VOCODER, mel={"hop_length": 1200})))["data"]["speech-folder"]["mel"]
    assert mel == {"hop_length": 1200, "n_fft": 4800, "win_length": 4800}
