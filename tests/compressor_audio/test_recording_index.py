from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from compressor_audio import recording_index
from compressor_audio.recording_index import RecordingIndex, recordings_below
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from compressor.data_source import DataContext
from compressor.errors import DataError

NAMES = ("b.wav", "a/c.wav", "a.wav", "A.WAV", "z/y/x.flac")


@pytest.fixture(autouse=True)
def _small_indexes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of none too: else an emptied folder would leave the index of what was there.
    monkeypatch.setattr(recording_index, "KEPT_FROM", 0)


@pytest.fixture
def headers_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    header: Callable[[str], object] = recording_index._header

    def watched(path: str) -> object:
        read.append(path)
        return header(path)

    monkeypatch.setattr(recording_index, "_header", watched)
    return read


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    soundfile.write(path, random.uniform(-0.5, 0.5, 100 + seed % 7), (8000, 16000)[seed % 2])
    # Times of change may be too coarse to tell two writes apart.
    os.utime(path, ns=(seed, seed))


def facts(index: RecordingIndex) -> dict[str, tuple[int, int, int, str, str]]:
    columns = (index.sizes, index.frames, index.rates, index.probes)
    return {name: (*row, index.broken.get(name, "")) for name, *row in zip(index.names, *columns, strict=True)}


CHANGES = st.dictionaries(st.sampled_from(NAMES), st.one_of(st.none(), st.integers(1, 10**6)), max_size=4)


@given(changes=st.lists(CHANGES, min_size=1, max_size=4))
@example(changes=[{"b.wav": 1}, {"b.wav": None}, {"b.wav": 1}])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_kept_index_is_that_of_the_folder_as_it_is(
    changes: list[dict[str, int | None]], context: DataContext, headers_read: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "speech"
        folder.mkdir()
        kept = replace(context, cache_dir=Path(made) / "cache")
        there: dict[str, int] = {}
        for change in changes:
            new = 0
            for name, seed in change.items():
                if seed is None:
                    (folder / name).unlink(missing_ok=True)
                    there.pop(name, None)
                else:
                    new += there.get(name) != seed
                    write(folder / name, seed)
                    there[name] = seed
            headers_read.clear()
            index = recordings_below(folder, kept)
            assert len(headers_read) == new
            assert list(index.names) == sorted(there)
            # Against an index that knows nothing of what was before.
            assert facts(index) == facts(recordings_below(folder, replace(context, cache_dir=Path(made) / str(new))))


def test_tells_what_headers_say(tmp_path: Path, context: DataContext) -> None:
    write(tmp_path / "deeper" / "one.wav", 3)
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    (tmp_path / "notes.txt").write_text("ignored")
    index = recordings_below(tmp_path, context)
    assert list(index.names) == ["broken.wav", "deeper/one.wav"]
    assert (list(index.frames), list(index.rates)) == ([0, 103], [0, 16000])
    assert list(index.broken) == ["broken.wav"]
    assert "cannot be read as audio" in index.broken["broken.wav"]


def test_the_same_size_with_other_content_is_told(tmp_path: Path, context: DataContext) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 14 + 7)):
        write(tmp_path / name / "one.wav", seed)
    first, same, other = (recordings_below(tmp_path / name, context) for name in "abc")
    assert list(first.sizes) == list(other.sizes)
    assert first.probes == same.probes != other.probes


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "columns", "types"])
def test_a_damaged_index_is_as_good_as_none(
    damage: str, tmp_path: Path, context: DataContext, headers_read: list[str]
) -> None:
    for number in range(3):
        write(tmp_path / "speech" / f"{number}.wav", number + 1)
    before = facts(recordings_below(tmp_path / "speech", context))
    (path,) = context.cache_dir.iterdir()
    content = path.read_bytes()
    path.write_bytes(
        {
            "cut": content[:-9],
            "empty": b"",
            "noise": b"\x8f\x00",
            "columns": content.replace(b'"0.wav",', b""),
            "types": content.replace(b'"0.wav"', b"7"),
        }[damage]
    )
    assert path.read_bytes() != content
    headers_read.clear()
    assert facts(recordings_below(tmp_path / "speech", context)) == before
    assert len(headers_read) == 3
    assert path.read_bytes() == content


def test_works_where_nothing_can_be_kept(tmp_path: Path, context: DataContext) -> None:
    write(tmp_path / "speech" / "one.wav", 1)
    context.cache_dir.write_text("a file")
    assert list(recordings_below(tmp_path / "speech", context).names) == ["one.wav"]


def test_refuses_what_is_no_folder(tmp_path: Path, context: DataContext) -> None:
    with pytest.raises(DataError, match="expected a folder of wav, flac or ogg"):
        recordings_below(tmp_path / "absent", context)
