from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.report import LayerRecord
from compressor.report_layers import LONGEST, MOST_PARTS, cost_pictures, part_depth, shortened
from tests.compressor.report_example import example_report


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 4))
def test_parts_are_as_fine_as_twenty_allow(numbers: list[int], depth: int) -> None:
    names = ["/".join(["net", *(str(number) for _ in range(depth)), "Conv"]) for number in numbers]
    found = part_depth(names)
    parts = {"/".join(name.split("/")[: min(found, depth + 1)]) for name in names}
    assert len(parts) <= MOST_PARTS
    assert (len(parts) == len(set(numbers))) == (len(set(numbers)) <= MOST_PARTS or len(set(numbers)) == 1)


def test_pictures_add_layers_up_by_part(tmp_path: Path) -> None:
    report = example_report(tmp_path, 0)
    parameters, macs = cost_pictures(report)
    assert [part.name for part in parameters.parts][:2] == ["conv_pre", "resblocks/0"]
    assert len(parameters.parts) == 14
    block = parameters.parts[1]
    # The second to fourth layer have 2, 3 and 4 thousand parameters, the student's three tenths of that.
    assert (block.teacher, block.student) == ("9 k", "2.7 k (30%)")
    assert block.student_width / block.teacher_width == 0.3
    assert max(macs.left + part.teacher_width for part in macs.parts) == pytest.approx(560 - 150)
    assert cost_pictures(report.model_copy(update={"layers": ()})) == ()


@given(st.lists(st.text("abcdefgh_", min_size=1, max_size=30), max_size=12), st.integers(0, 999))
def test_a_name_that_is_cut_short_fits(words: list[str], number: int) -> None:
    name = "/".join([*words, str(number)])
    assert len(shortened(name)) <= LONGEST
    assert (shortened(name) == name) == (len(name) <= LONGEST)
    assert shortened(name).endswith(f"{number}")


def test_long_words_are_cut_in_their_middle_and_numbers_stay() -> None:
    names = [
        f"encoder/layers/{at}/attention/{word}" for at in range(12) for word in ("projection_out", "projection_in")
    ]
    short = [shortened(name) for name in names]
    assert short[0] == "encoder/layers/0/att…ion/pro…out"
    assert len(set(short)) == len(names)


def test_a_student_whose_layers_have_names_of_their_own_has_few_parts_too(tmp_path: Path) -> None:
    report = example_report(tmp_path, 0)
    names = [
        f"stages.{stage}.branches.{branch}.convs.{at}" for stage in range(4) for branch in range(3) for at in range(9)
    ]
    renamed = tuple(LayerRecord(layer=name, kind="Conv2d", parameters=10, macs=100) for name in names)
    (parameters, _) = cost_pictures(report.model_copy(update={"layers": renamed}))
    own = [part for part in parameters.parts if part.name.startswith("stages")]
    assert len(own) == 12
    assert sum(part.student_width > 0 for part in own) == 12
    assert len(parameters.parts) == 14 + 12
