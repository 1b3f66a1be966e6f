from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from compressor_distill.agreement import TopOneAgreement
from pydantic import ValidationError

from compressor.dataset import FloatArray
from compressor.errors import MetricUnavailable
from compressor.metric import Subject
from compressor.planning import plan
from compressor.plugin_catalog import load_catalog
from compressor.recipe import Recipe


def judged(outputs: list[FloatArray], teacher_outputs: list[FloatArray]) -> Subject:
    return cast(Subject, SimpleNamespace(outputs=outputs, teacher_outputs=teacher_outputs))


def scores(seed: int, *shape: int) -> list[FloatArray]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape).astype(np.float32) for _ in range(40)]


@pytest.mark.parametrize("positions", [(), (7,), (2, 3)])
def test_is_the_share_of_equal_decisions(positions: tuple[int, ...]) -> None:
    student, teacher = scores(0, 3, *positions), scores(1, 3, *positions)
    decisions = [np.concatenate([each.argmax(axis=0).reshape(-1) for each in side]) for side in (student, teacher)]
    subject = judged([each.reshape(-1) for each in student], [each.reshape(-1) for each in teacher])
    found = TopOneAgreement(classes=3).measure(subject)
    assert found == pytest.approx((decisions[0] == decisions[1]).mean())
    assert 0.1 < found < 0.9


def test_only_the_best_class_counts() -> None:
    teacher = scores(0, 5)
    assert TopOneAgreement(classes=5).measure(judged([3 * each - 1 for each in teacher], teacher)) == 1.0
    assert TopOneAgreement(classes=5).measure(judged([-each for each in teacher], teacher)) == 0.0


def test_says_what_does_not_fit() -> None:
    with pytest.raises(MetricUnavailable, match=r"has 5 values, which 3 classes do not divide; .* options: classes"):
        TopOneAgreement(classes=3).measure(judged(scores(0, 5), scores(1, 5)))
    with pytest.raises(MetricUnavailable, match="no validation samples"):
        TopOneAgreement(classes=3).measure(judged([], []))
    with pytest.raises(ValidationError, match="classes"):
        TopOneAgreement.model_validate({})


def test_is_measured_where_it_is_asked_for() -> None:
    """Most models are no classifiers: what is measured by default must leave it out."""
    parts = {"teacher": "t.onnx", "data": "piper-speech", "stages": ["fold"]}
    catalog = load_catalog()
    default = plan(Recipe.model_validate(parts), catalog).metrics
    asked = plan(Recipe.model_validate({**parts, "metrics": [{"top-1-agreement": {"classes": 10}}]}), catalog).metrics
    assert default
    assert not any(isinstance(metric, TopOneAgreement) for metric in default)
    assert asked == (TopOneAgreement(classes=10),)
