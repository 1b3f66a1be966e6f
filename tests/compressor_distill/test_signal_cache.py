from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from compressor_distill import signal_cache
from compressor_distill.signal_cache import ABANDONED_SECONDS, WRITTEN, SignalCache
from compressor_distill.teacher_signals import Keeping, TeacherSignals
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressor.dataset import Dataset
from compressor.teacher_loading import Teacher

POINTS = ("div", "div_1")


def signals_of(teacher: Teacher, data: Dataset, keeping: Keeping) -> TeacherSignals:
    return TeacherSignals(teacher.graph, teacher.inputs, POINTS, torch.device("cpu"), data.train, 10, keeping)


def tensors(size: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a": torch.randn(2, size, generator=generator),
        "half": torch.randn(size, 3, generator=generator).half(),
        "whole": torch.arange(size),
    }


def held(cache: SignalCache, key: str) -> dict[str, Tensor] | None:
    with cache.open(key) as stored:
        return None if stored is None else {name: stored.whole(name) for name in stored.names}


def test_parts_of_what_was_put(tmp_path: Path) -> None:
    cache = SignalCache(tmp_path / "new", 1e6)
    given_tensors = tensors(9)
    cache.put("key", given_tensors)
    assert cache.has("key")
    assert not cache.has("other")
    assert held(cache, "other") is None
    with cache.open("key") as stored:
        assert stored is not None
        assert stored.names == {"a", "half", "whole"}
        assert stored.shape("a") == (2, 9)
        assert torch.equal(stored.part("a", -1, 2, 3), given_tensors["a"][:, 2:5])
        assert torch.equal(stored.part("half", 0, 0, 2), given_tensors["half"][:2])
        assert torch.equal(stored.whole("whole"), given_tensors["whole"])


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@given(
    sizes=st.lists(st.tuples(st.integers(0, 11), st.integers(1, 3000)), min_size=1, max_size=60),
    most=st.integers(20_000, 200_000),
    unit=st.sampled_from([1 << 8, 1 << 12, 1 << 16]),
)
@settings(max_examples=40, deadline=None)
def test_any_number_of_writers_keep_the_bound(sizes: list[tuple[int, int]], most: int, unit: int) -> None:
    with tempfile.TemporaryDirectory() as made, mock.patch.object(signal_cache, "UNIT", unit):
        folder = Path(made)
        writers = [SignalCache(folder, most) for _ in range(12)]
        for number, (writer, size) in enumerate(sizes):
            key = f"key {number}"
            writers[writer].put(key, tensors(size))
            assert writers[writer].has(key) or "may be kept" in writers[writer].failure
            assert bytes_in(folder) <= most


def test_what_others_are_writing_counts_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_cache, "UNIT", 1 << 8)
    others = [SignalCache(tmp_path, 20_000) for _ in range(6)]
    slow = SignalCache(tmp_path, 20_000)
    replace = Path.replace

    def after_all_others(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        for number, other in enumerate(others):
            other.put(f"other {number}", tensors(150))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", after_all_others)
    slow.put("slow", tensors(400))
    assert slow.has("slow")
    assert 10_000 < bytes_in(tmp_path) <= 20_000


def test_of_two_files_that_do_not_fit_together_one_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (SignalCache(tmp_path, 20_000) for _ in range(2))
    replace = Path.replace

    def after_the_second(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        second.put("second", tensors(600))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", after_the_second)
    first.put("first", tensors(600))
    assert (first.has("first"), second.has("second")) == (True, False)
    assert "other processes are writing" in second.failure
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["first.safetensors"]
    second.put("second", tensors(600))
    assert second.has("second")


def test_writers_at_once_keep_the_bound(tmp_path: Path) -> None:
    most = 60_000

    def work(seed: int) -> None:
        cache = SignalCache(tmp_path, most)
        for step in range(25):
            cache.put(f"{seed} {step}", tensors(100 + 40 * seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most / 2 < bytes_in(tmp_path) <= most


def test_a_folder_with_room_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[object] = []
    scan = os.scandir

    def counted(path: Path) -> object:
        looked.append(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", counted)
    caches = [SignalCache(tmp_path, 1e8) for _ in range(2)]
    for number in range(100):
        caches[number % 2].put(str(number), tensors(10))
    assert looked == [tmp_path, tmp_path]
    # Somebody clears the folder: what was known of it holds no more.
    for path in tmp_path.iterdir():
        path.unlink()
    caches[0].put("new", tensors(10))
    assert len(looked) == 3


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    one = tensors(100)
    size = sum(value.nbytes for value in one.values())
    cache = SignalCache(tmp_path, 4.4 * size)
    for number in range(3):
        cache.put(str(number), one)
        os.utime(tmp_path / f"{number}.safetensors", (100 + number, 100 + number))
    assert held(cache, "0") is not None
    cache.put("3", one)
    assert [cache.has(str(number)) for number in range(4)] == [True, False, True, True]


def test_what_does_not_fit_at_all_is_not_kept(tmp_path: Path) -> None:
    cache = SignalCache(tmp_path, 1000)
    cache.put("key", tensors(1000))
    assert not cache.has("key")
    assert "may be kept" in cache.failure


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "one bit", "another's"])
@pytest.mark.parametrize("other_reader", [True, False])
def test_a_damaged_file_is_as_good_as_none(damage: str, other_reader: bool, tmp_path: Path) -> None:
    cache = SignalCache(tmp_path, 1e6)
    cache.put("key", tensors(50))
    path = tmp_path / "key.safetensors"
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-1] ^= 1
    no_checksum = content.replace(b"checksum", b"chocksum")
    path.write_bytes(
        {
            "cut": content[:-1],
            "empty": b"",
            "noise": b"noise" * 99,
            "one bit": bytes(flipped),
            "another's": no_checksum,
        }[damage]
    )
    reader = SignalCache(tmp_path, 1e6) if other_reader else cache
    assert held(reader, "key") is None
    reader.put("key", tensors(50))
    found = held(reader, "key")
    assert found is not None
    assert torch.equal(found["a"], tensors(50)["a"])


def test_writers_and_readers_at_once_see_whole_files_only(tmp_path: Path) -> None:
    wanted = {str(number): tensors(400, number) for number in range(4)}
    problems: list[str] = []

    def work(seed: int) -> None:
        # Of the four there is room for three, which may be written at once.
        cache = SignalCache(tmp_path, 30_000)
        for step in range(40):
            key = str((seed + step) % 4)
            found = held(cache, key)
            if found is None:
                cache.put(key, wanted[key])
            elif not all(torch.equal(found[name], value) for name, value in wanted[key].items()):
                problems.append(key)
        problems.extend([cache.failure] if cache.failure else [])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [WRITTEN]


def test_a_file_that_goes_while_it_is_opened_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SignalCache(tmp_path, 1e6)
    cache.put("key", tensors(3))
    opened: Callable[..., object] = torch.UntypedStorage.from_file

    def gone(path: str, *arguments: object, **named: object) -> object:
        Path(path).unlink()
        return opened(path, *arguments, **named)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", gone)
    assert held(cache, "key") is None
    assert not cache.has("key")


def test_unfinished_files_of_the_dead_are_deleted(tmp_path: Path) -> None:
    for name, age in (("old", ABANDONED_SECONDS + 9), ("new", 0.0)):
        path = tmp_path / f".{name}.safetensors"
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age, time.time() - age))
    SignalCache(tmp_path, 1e6).put("key", tensors(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new.safetensors", WRITTEN, "key.safetensors"]


def test_a_folder_that_cannot_be_written_loses_time_only(
    tmp_path: Path, tiny_teacher: Teacher, tiny_dataset: Dataset
) -> None:
    (tmp_path / "file").write_text("no folder")
    signals = signals_of(tiny_teacher, tiny_dataset, Keeping("", "recorded", 0.0, 1.0, tmp_path / "file"))
    signals.begin(9, 2, features=True)
    wanted = signals_of(tiny_teacher, tiny_dataset, Keeping("")).batch((1,), 2)
    assert torch.equal(signals.batch((1,), 2).output, wanted.output)
    assert signals.disk.cache.failure


def test_recordings_are_shared_and_mended(tmp_path: Path, tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    def signals() -> TeacherSignals:
        made = signals_of(tiny_teacher, tiny_dataset, Keeping("", "recorded", 0.0, 1.0, tmp_path))
        made.begin(9, 4, features=True)
        return made

    first = signals()
    wanted = first.batch((1,), 8)
    cuts = first.inputs.cuts((1,), 8)
    second = signals()
    assert not any(second.way.lacks(cut, features=True) for cut in cuts)
    times = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    assert torch.equal(second.batch((1,), 8).output, wanted.output)
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == times
    for path in times:
        path.write_bytes(path.read_bytes()[:-5])
    third = signals().batch((1,), 8)
    assert torch.equal(third.output, wanted.output)
    for point in POINTS:
        assert torch.equal(third.features[point], wanted.features[point])
