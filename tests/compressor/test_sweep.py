"""What a sweep varies, and which trials no other beats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compressor.errors import CompressorError, RecipeError
from compressor.memory import Memory
from compressor.report import Measurement, StageRecord
from compressor.sweep.definition import Sweep
from compressor.sweep.page import pictures, render_sweep
from compressor.sweep.results import Results, Tried, nearest_to_ideal, pareto_front
from compressor.sweep.space import Listed, Ranged, overrides, parse_varied
from compressor.sweep.study import open_study
from compressor.sweep.working import Watched
from tests.compressor.tiny_sweep import tiny_recipe, tiny_sweep


def test_values_and_ranges_are_read() -> None:
    assert parse_varied(
        ["prune.ratio=0.1,0.5", "rank=1..8", "stages.2.options.rate=log:1e-5..1e-3", "on=true,null"]
    ) == (
        Listed("prune.ratio", (0.1, 0.5)),
        Ranged("rank", 1, 8),
        Ranged("2.rate", 1e-5, 1e-3, logarithmic=True),
        Listed("on", (True, None)),
    )
    assert overrides({"a.b": 1, "c": None, "d": "30%"}) == ("a.b=1", "c=null", 'd="30%"')
    assert [each.size for each in parse_varied(["a=1,2,3", "b=1..8", "c=0.0..1.0"])] == [3, 8, float("inf")]


def test_every_mistake_is_told_at_once() -> None:
    assert parse_varied(["teacher=../a.onnx,../b.onnx"])[0].ends == ("../a.onnx", "../b.onnx")
    with pytest.raises(CompressorError) as caught:
        parse_varied(["rank", "rank=8..1", "rate=log:0..1", "rank=log:a..b", "x=1,1", "y=1", "y=2", "z=2024-01-05"])
    told = str(caught.value)
    hints = ["expected PATH", "not above", "begins above 0", "no range of numbers", "listed twice", "varied twice"]
    for hint in [*hints, "is a date"]:
        assert hint in told


figures = st.dictionaries(
    st.integers(1, 30), st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: tuple(map(float, pair)))
)


@given(figures)
def test_the_front_is_what_no_other_beats(found: dict[int, tuple[float, ...]]) -> None:
    front = pareto_front(found)
    array = np.array(list(found.values())).reshape(-1, 2)
    for number, own in found.items():
        beaten = ((array <= own).all(1) & (array < own).any(1)).any()
        assert (number in front) == (not beaten)
    best = nearest_to_ideal({number: found[number] for number in front})
    assert best in front if found else best is None


def test_the_nearest_to_the_ideal_is_no_extreme_where_there_is_a_knee() -> None:
    assert nearest_to_ideal({1: (0.0, 10.0), 2: (1.0, 1.0), 3: (10.0, 0.0)}) == 2


def test_values_that_the_recipe_does_not_take_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"pruning_ratio.*found 1.5"):
        tiny_sweep(tmp_path, "channel-importance-pruning.pruning_ratio=0.1,1.5")
    with pytest.raises(RecipeError, match="did you mean 'pruning_ratio'"):
        tiny_sweep(tmp_path, "channel-importance-pruning.pruning_rato=0.1,0.2")
    with pytest.raises(CompressorError, match=r"does not measure 'mcas' \(did you mean 'macs'"):
        tiny_sweep(tmp_path, "channel-importance-pruning.pruning_ratio=0.1,0.2", metrics=("mcas",))


def test_every_value_that_the_recipe_does_not_take_is_told_with_the_option_that_asks_for_it(tmp_path: Path) -> None:
    pruning = "channel-importance-pruning"
    with pytest.raises(RecipeError) as told:
        tiny_sweep(tmp_path, f"{pruning}.pruning_ratio=0.1,1.5,2.5", f"{pruning}.round_to=2,0")
    assert [problem.file for problem in told.value.problems] == [
        f"--vary {pruning}.pruning_ratio=1.5",
        f"--vary {pruning}.pruning_ratio=2.5",
        f"--vary {pruning}.round_to=0",
    ]


def test_a_trials_folder_follows_from_its_values(tmp_path: Path) -> None:
    made = tiny_sweep(tmp_path, "channel-importance-pruning.pruning_ratio=0.1,0.2")
    one, other = (made.folder({"channel-importance-pruning.pruning_ratio": value}) for value in (0.1, 0.2))
    assert one != other
    assert one.name.startswith("pruning_ratio=0.1-")
    assert one == made.folder({"channel-importance-pruning.pruning_ratio": 0.1})


class Trials:
    """Trials of one objective that are told of their students stage by stage, as `Watched` hears it."""

    def __init__(self, folder: Path, metric: str) -> None:
        self.metric = metric
        recipe = tiny_recipe(folder)
        content = {**yaml.safe_load(recipe.read_text(encoding="utf-8")), "metrics": [metric]}
        recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
        varied = parse_varied(["channel-importance-pruning.pruning_ratio=0.1..0.9"])
        self.sweep = Sweep(recipe, varied, (metric,), 9, folder / "out", f"sqlite:///{folder / 'study.db'}")
        self.study = open_study(self.sweep)

    def run(self, *values: float) -> None:
        """Run one trial, whose student comes to these values after its stages."""
        trial = self.study.ask()
        watched = Watched(self.sweep, trial)
        for number, value in enumerate(values, 1):
            measured = Measurement(metric=self.metric, value=value)
            watched.stage_completed(StageRecord(stage=f"stage {number}", strategy="s", measurements=(measured,)))
        self.study.tell(trial, 1.0)


def test_of_one_objective_a_trial_that_is_worse_than_most_ends_early(tmp_path: Path) -> None:
    trials = Trials(tmp_path, "parameters")
    for value in (1.0, 2.0, 1.5):
        trials.run(value)
    # Of fewer than four others nobody knows what most come to.
    trials.run(9.0)
    with pytest.raises(optuna.TrialPruned, match=r"after stage 1 parameters is 1\.8"):
        trials.run(1.8)
    # As good as the median is not worse.
    trials.run(1.75)


@pytest.mark.parametrize(("metric", "sign"), [("speedup", 1), ("parameters", -1)])
def test_what_a_trial_was_at_an_earlier_stage_does_not_save_it(tmp_path: Path, metric: str, sign: int) -> None:
    trials = Trials(tmp_path, metric)
    for value in (1.0, 2.0, 3.0, 4.0):
        trials.run(sign * 10.0, sign * value)
    trials.run(sign * 11.0, sign * 2.6)
    with pytest.raises(optuna.TrialPruned, match=f"after stage 2 {metric} is {sign * 1.5}"):
        trials.run(sign * 11.0, sign * 1.5)


def test_no_number_is_worse_than_any(tmp_path: Path) -> None:
    trials = Trials(tmp_path, "speedup")
    for value in (1.0, 2.0, 3.0, float("nan")):
        trials.run(value)
    # 1.5 is the median; of those with a number it were 2.
    trials.run(1.5)
    with pytest.raises(optuna.TrialPruned, match="is 1, worse"):
        trials.run(1.0)
    with pytest.raises(optuna.TrialPruned, match="is nan"):
        trials.run(float("nan"))


def test_another_teacher_in_the_same_place_is_another_sweep(tmp_path: Path) -> None:
    made = tiny_sweep(tmp_path, "channel-importance-pruning.pruning_ratio=0.1,0.2")
    values = {"channel-importance-pruning.pruning_ratio": 0.1}
    before = made.identity, made.folder(values)
    content = (tmp_path / "tiny.onnx").read_bytes()
    (tmp_path / "tiny.onnx").write_bytes(content + content[-1:])
    other = replace(made, trials=3)
    assert other.identity != before[0]
    assert other.folder(values) != before[1]


def test_what_was_made_of_the_same_is_made_once() -> None:
    memory, made = Memory(2), []

    def make(name: str) -> str:
        return memory.once(["facts", name], lambda: made.append(name) or name)  # type: ignore[func-returns-value]

    assert [make(name) for name in "aabac"] == list("aabac")
    assert made == ["a", "b", "c"]
    make("b")
    assert made == ["a", "b", "c", "b"]
    assert [Memory().once("x", lambda: len(made)) for _ in "12"] == [4, 4]


def trial(number: int, parameters: float, drift: float) -> Tried:
    figures = [("parameters", parameters), ("output-drift", drift)]
    measured = tuple(Measurement(metric=name, value=value) for name, value in figures)
    return Tried(number=number, values={"rank": number}, state="finished", folder="f", measurements=measured)


def test_the_page_says_all_that_the_table_does() -> None:
    failed = Tried(number=3, values={"rank": 3}, state="pruned", reason="no choice meets <the budget>")
    page = render_sweep(
        Results(
            recipe="r.yaml", objectives=("output-drift",), higher=(False,), front=(1,), best=1,
            trials=(trial(1, 1000.0, 0.25), trial(2, 900.0, 0.5), failed),
        )
    )  # fmt: skip
    for text in ("0.25", "0.5", "no choice meets &lt;the budget&gt;", "trial 1", "best", "http-equiv"):
        assert text in page
    assert page.count("<circle") == 2 + 2
    assert "<h1>r.yaml: a sweep</h1>" in page


def test_dots_that_lie_together_have_one_label_with_all_their_numbers() -> None:
    front = [trial(1, 1000.0, 0.25), trial(2, 1001.0, 0.2501), trial(3, 5000.0, 0.1), trial(4, 1000.0, 0.9)]
    results = Results(
        recipe="/a/r.yaml", objectives=("output-drift",), higher=(False,), front=(1, 3), best=1, trials=tuple(front)
    )
    (picture,) = pictures(results)
    assert [dot.label for dot in picture.dots] == ["1, 2", "", "3", "4"]
    assert render_sweep(results).count("</circle>") == 4


@pytest.mark.parametrize(
    ("objectives", "drawn"),
    [
        ("stoi", "stoi by parameters, stoi by macs"),
        ("macs stoi", "stoi by macs, stoi by parameters"),
        ("stoi speedup", "stoi by speedup, stoi by parameters, stoi by macs"),
        (
            "stoi pesq-wb",
            "pesq-wb by stoi, stoi by parameters, stoi by macs, pesq-wb by parameters, pesq-wb by macs",
        ),
        (
            "stoi parameters pesq-wb",
            "stoi by parameters, pesq-wb by parameters, pesq-wb by stoi, stoi by macs, pesq-wb by macs",
        ),
        ("parameters macs", "macs by parameters"),
        ("bytes rtf", "rtf by bytes"),
        ("speedup", "speedup by parameters, speedup by macs"),
        ("macs", "macs by parameters"),
        ("stoi stoi", "stoi by parameters, stoi by macs"),
    ],
)
def test_what_is_compared_is_drawn_first_and_nothing_twice(objectives: str, drawn: str) -> None:
    compared = tuple(objectives.split())
    names = dict.fromkeys((*compared, "parameters", "macs", "mel-l1"))
    measured = tuple(Measurement(metric=name, value=1.0) for name in names)
    results = Results(
        recipe="r.yaml", objectives=compared, higher=(False,) * len(compared), front=(1,), best=1,
        trials=(Tried(number=1, values={"rank": 1}, state="finished", folder="f", measurements=measured),),
    )  # fmt: skip
    assert ", ".join(f"{picture.up} by {picture.across}" for picture in pictures(results)) == drawn
