"""What the `vocoder.yaml` beside a DiffSinger or OpenUtau vocoder says of its mel analysis."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from compressor.errors import CompressorError, DataError
from compressor.package_files import resolve_package_path
from compressor.sidecars import MEL_OPTIONS, VOCODER_NAME, described_mel
from compressor_audio.mel import MelOptions


def check_described(teacher: str, mel: MelOptions) -> None:
    """Hold an analysis against the description beside a teacher, if there is one.

    Raises:
        DataError: they differ, with every difference: the teacher would be given mels that it was not trained on.
    """
    described = _description(teacher)
    own = {**mel.model_dump(), "fmax": mel.upper_edge}
    wanted = described_mel(described)
    wrong = {
        name: option
        for name, option in MEL_OPTIONS.items()
        if option in wanted and not _same(wanted[option], own[option])
    }
    if wrong:
        told = [f"  {name} is {described[name]}, `mel` has {option}: {own[option]}" for name, option in wrong.items()]
        options = [f"--set 'data.mel.{option}={json.dumps(wanted[option], default=str)}'" for option in wrong.values()]
        raise DataError(
            "\n".join([f"{VOCODER_NAME} beside {teacher} and the recipe differ", *told, f"  take: {' '.join(options)}"])
        )


def _description(teacher: str) -> Mapping[str, Any]:
    """Return what stands beside a teacher; nothing where that is missing or no mapping."""
    try:
        path = resolve_package_path(teacher).with_name(VOCODER_NAME)
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (CompressorError, OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _same(described: Any, own: Any) -> bool:
    try:
        return float(described) == float(own)
    except (TypeError, ValueError):
        return str(described).lower() == str(own).lower()
