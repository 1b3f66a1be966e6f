"""A first recipe for a model: what ships for its kind, with what the model and the files beside it tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from compressor.cut_points import RegionFact
from compressor.shipped_recipes import shipped_recipes
from compressor.tensor_spec import TensorSpec

PIPER_VOICE, MEL_VOCODER, F0_VOCODER = "a Piper voice", "a mel vocoder", "a vocoder that takes f0 too"
_USUAL = {"sample_rate": 22050, "hop_length": 256, "n_mels": 80}
"""HiFi-GAN's, which recipes need not name."""
_USUAL_WINDOW, _USUAL_FMAX = 1024, 8000


@dataclass(frozen=True)
class VocoderFact:
    """What says that a model is a vocoder or a voice."""

    kind: str
    hop_length: int | None
    sample_rate: int | None
    described_by: str
    mel: Mapping[str, Any] = field(default_factory=dict)
    """What is known of the mel spectrogram that it takes, by the names that recipes have for it."""


def first_recipe(
    source: str,
    vocoder: VocoderFact | None,
    parts: Sequence[RegionFact],
    inputs: Sequence[TensorSpec],
    tensors: frozenset[str],
    *,
    loads: bool,
) -> str:
    """Return a recipe in YAML; nothing where the model does not load and has no part that might.

    Args:
        source: the model's file.
        vocoder: what says that it is one.
        parts: its regions, the largest first.
        inputs: the model's.
        tensors: the names in its graph.
        loads: whether the whole of it can be a teacher.
    """
    kind = vocoder.kind if vocoder is not None else ""
    if kind == PIPER_VOICE and (voice := _shipped("piper_voice", source, tensors)):
        return _written(voice)
    teacher: Any = source
    if kind == PIPER_VOICE or not loads:
        if not parts:
            return ""
        teacher = {"onnx": source, "region": {"inputs": [parts[0].input], "outputs": [parts[0].output]}}
    recipe = {"teacher": teacher, "budget": {"parameters": "30%", "macs": "30%"}}
    if kind == PIPER_VOICE:
        return _written({**recipe, "data": "piper-phonemes", "stages": _stages()})
    if vocoder is not None and len(inputs) == 1:
        mel = {} if _USUAL.items() >= vocoder.mel.items() else {"mel": _whole(vocoder.mel)}
        data = {"speech-folder": {"path": "recordings", **mel}}
        remark = "" if vocoder.described_by else _LOOK_UP
        return remark + _written({**recipe, "data": data, "stages": _stages()})
    remark = _SINGING if kind == F0_VOCODER else _NO_VOCODER
    return remark + _written({"teacher": teacher, "stages": ["fold", "fastest-exact-form"]})


_LOOK_UP = (
    "# The mel spectrogram has to be the one that the model was trained on. Its hop and bands the model tells; what\n"
    "# else differs from HiFi-GAN's at 22.05 kHz goes under `mel` (sample_rate, n_fft, win_length, fmin, fmax, log).\n"
)
_SINGING = (
    "# Exact, without training. `compress recipes copy nsf_hifigan_student` copies one that makes the part behind the\n"
    "# sine source smaller and trains it.\n"
)
_NO_VOCODER = (
    "# Exact, without training. What makes a model smaller needs `data` (array-folder) and, after stages such as\n"
    "# channel-importance-pruning, `distillation` with losses such as mse; `compress plugins` lists what there is.\n"
)


def _whole(mel: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of an analysis, and what follows where HiFi-GAN's own windows or bands do not fit it."""
    found = dict(mel)
    if isinstance(hop := found.get("hop_length"), int) and hop > _USUAL_WINDOW:
        found.setdefault("n_fft", found.get("win_length", 4 * hop))
    # One that is told without the other: a window as long as the transform.
    for told, other in (("n_fft", "win_length"), ("win_length", "n_fft")):
        if told in found:
            found.setdefault(other, found[told])
    if isinstance(rate := found.get("sample_rate"), int) and rate < 2 * _USUAL_FMAX:
        found.setdefault("fmax", rate / 2)
    return found


def _stages() -> list[Any]:
    stages: list[Any] = _content("hifigan_student")["stages"]
    return stages


def _shipped(name: str, source: str, tensors: frozenset[str]) -> dict[str, Any] | None:
    """Return a recipe that ships, with a teacher of one's own; None where that lacks the names of its region."""
    recipe = _content(name)
    region = recipe["teacher"]["region"]
    if not tensors >= {*region["inputs"], *region["outputs"]}:
        return None
    # The licence is that of the recipe's own teacher.
    others = {key: value for key, value in recipe.items() if key not in ("teacher", "licence")}
    return {"teacher": {"onnx": source, "region": region}, **others}


def _content(name: str) -> dict[str, Any]:
    path = next(recipe.path for recipe in shipped_recipes() if recipe.name == name)
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def _written(recipe: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(recipe), sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
