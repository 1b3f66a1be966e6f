from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ConfigDict

from compressor.errors import PluginError
from compressor.hookspecs import hookimpl
from compressor.plugin_catalog import Catalog, load_catalog
from compressor.report import StageRecord
from compressor.strategy import BudgetedStrategy, Candidate, StageContext, StageOutcome, Strategy
from tests.compressor.fake_plugins import FakePlugin, MelL1, Prune

Install = Callable[..., None]

PLUGIN = """
from compressor.hookspecs import hookimpl
from compressor.strategy import Strategy

class Quick(Strategy):
    name = "{name}"
    def apply(self, student, context): ...

@hookimpl
def compressor_strategies():
    return [Quick]
"""


@pytest.fixture(autouse=True)
def only_own_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the plugins that are installed beside the tests: only `install` puts any in place."""
    from importlib.metadata import EntryPoints, entry_points

    def visible(*, group: str) -> EntryPoints:
        return EntryPoints(each for each in entry_points(group=group) if each.value.startswith("installed_"))

    monkeypatch.setattr("importlib.metadata.entry_points", visible)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with one plugin module on the path, as pip does."""

    def put(distribution: str, entry_point: str, source: str) -> None:
        module = f"installed_{distribution.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[compressor]\n{entry_point} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(tmp_path)

    return put


def offering(*classes: Any) -> object:
    class Plugin:
        @hookimpl
        def compressor_strategies(self) -> Sequence[Any]:
            return classes

    return Plugin()


def test_no_plugins() -> None:
    assert load_catalog() == Catalog()


def test_everything_offered_is_found_with_its_origin(install: Install) -> None:
    install("quick-dist", "quick", PLUGIN.format(name="quick"))
    catalog = load_catalog([FakePlugin()])
    assert set(catalog.strategies) == {"quick", "prune", "low-rank", "distill"}
    assert catalog.strategies["prune"] is Prune
    assert catalog.validation_context()["losses"]["mel-l1"] is MelL1
    assert str(catalog.origins["strategies", "quick"]) == "plugin 'quick' (quick-dist 1.2)"
    assert str(catalog.origins["losses", "mel-l1"]) == "plugin 'FakePlugin' (given in code)"


def test_the_catalog_cannot_be_changed() -> None:
    catalog = load_catalog([FakePlugin()])
    with pytest.raises(TypeError):
        catalog.strategies["other"] = Prune  # type: ignore[index]
    assert load_catalog() == Catalog()


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        (
            "from compressor.hookspecs import hookimpl\n@hookimpl\ndef compressor_strategies():\n    return 1 / 0",
            "compressor_strategies failed: ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_broken_plugin_is_named_and_the_others_load(install: Install, source: str, error: str) -> None:
    install("a-broken", "broken", source)
    install("quick-dist", "quick", PLUGIN.format(name="quick"))
    catalog = load_catalog()
    assert list(catalog.strategies) == ["quick"]
    assert [str(failure) for failure in catalog.failures] == [f"plugin 'broken' (a-broken 1.2) did not load: {error}"]


def test_two_entry_points_of_one_name(install: Install) -> None:
    install("first", "quick", PLUGIN.format(name="one"))
    install("second", "quick", PLUGIN.format(name="two"))
    with pytest.raises(PluginError, match=r"share a name: .*(first|second) 1\.2.*(first|second) 1\.2") as caught:
        load_catalog()
    assert "first" in str(caught.value)
    assert "second" in str(caught.value)


def test_two_classes_of_one_name(install: Install) -> None:
    install("first", "one", PLUGIN.format(name="same"))
    install("second", "two", PLUGIN.format(name="same"))
    with pytest.raises(PluginError, match="two strategies are called 'same'") as caught:
        load_catalog()
    assert "plugin 'one' (first 1.2)" in str(caught.value)
    assert "plugin 'two' (second 1.2)" in str(caught.value)


def test_the_same_plugin_twice() -> None:
    plugin = FakePlugin()
    with pytest.raises(PluginError, match="share a name"):
        load_catalog([plugin, plugin])


@pytest.mark.parametrize("mark", ["@hookimpl\n", ""])
def test_misspelt_hook(install: Install, mark: str) -> None:
    source = f"from compressor.hookspecs import hookimpl\n{mark}def compressor_strategys():\n    return []"
    install("typo-dist", "typo", source)
    with pytest.raises(PluginError, match=r"plugin 'typo' \(typo-dist 1\.2\).*did you mean 'compressor_strategies'"):
        load_catalog()


def test_a_plugin_without_hooks(install: Install) -> None:
    install("empty-dist", "empty", "VALUE = 1")
    with pytest.raises(PluginError, match=r"plugin 'empty' \(empty-dist 1\.2\): has no hook"):
        load_catalog()


def test_a_hook_with_a_wrong_argument() -> None:
    class Plugin:
        @hookimpl
        def compressor_stage_completed(self, recrod: StageRecord) -> None: ...

    with pytest.raises(PluginError, match=r"plugin 'Plugin' \(given in code\).*recrod"):
        load_catalog([Plugin()])


@pytest.mark.parametrize("kind", ["wrapper", "hookwrapper"])
def test_wrappers_are_refused(kind: str) -> None:
    class Plugin:
        @hookimpl(wrapper=kind == "wrapper", hookwrapper=kind == "hookwrapper")
        def compressor_strategies(self) -> Any:
            return (yield)

    with pytest.raises(PluginError, match="'compressor_strategies' is a hook wrapper"):
        load_catalog([Plugin()])


class Unnamed(Strategy):
    def apply(self, student: Any, context: StageContext) -> StageOutcome:
        raise NotImplementedError


class Shouting(Unnamed):
    name: ClassVar[str] = "Low_Rank"


class Unfinished(Strategy):
    name: ClassVar[str] = "unfinished"


class Tolerant(Unnamed):
    model_config = ConfigDict(extra="ignore")
    name: ClassVar[str] = "tolerant"


class Undecided(BudgetedStrategy):
    name: ClassVar[str] = "undecided"

    def apply(self, student: Any, context: StageContext) -> StageOutcome:
        raise NotImplementedError

    def candidates(self, student: Any, context: StageContext) -> Sequence[Candidate]:
        raise NotImplementedError


class Misspelt(Undecided):
    fixed_by: ClassVar[str] = "rnk"
    rank: int | None = None


@pytest.mark.parametrize(
    ("offer", "message"),
    [
        (MelL1, "offered as a Strategy but is no subclass of Strategy"),
        ("prune", "'prune' is offered as a Strategy"),
        (Unnamed, "Unnamed needs a 'name: ClassVar.str.' in kebab-case.*found None"),
        (Shouting, "Shouting needs .* found 'Low_Rank'"),
        (Unfinished, "Unfinished lacks apply"),
        (Tolerant, "Tolerant must keep the contract's model_config"),
        (Undecided, r"Undecided needs a 'fixed_by: ClassVar.str.' that names the option"),
        (Misspelt, r"Misspelt needs a 'fixed_by: ClassVar.str.' that names the option"),
    ],
)
def test_classes_that_break_the_contract(offer: object, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        load_catalog([offering(offer)])


def test_a_hook_that_returns_no_list() -> None:
    class Plugin:
        @hookimpl
        def compressor_strategies(self) -> Any:
            return Prune

    with pytest.raises(PluginError, match="compressor_strategies must return a list of classes"):
        load_catalog([Plugin()])


def test_converters_are_collected_and_may_not_clash() -> None:
    def convert(node: object, graph: object) -> None: ...

    class First:
        @hookimpl
        def compressor_onnx_converters(self) -> dict[tuple[str, int], Any]:
            return {("Trilu", 14): convert}

    class Second(First): ...

    assert load_catalog([First()]).converters == {("Trilu", 14): convert}
    with pytest.raises(PluginError, match="two onnx_converters are called 'Trilu-14'"):
        load_catalog([First(), Second()])


def test_announcements_reach_every_listener() -> None:
    heard: list[str] = []

    class Listener:
        @hookimpl
        def compressor_stage_completed(self, record: StageRecord) -> None:
            heard.append(record.stage)

    class Counter:
        @hookimpl
        def compressor_stage_completed(self) -> None:
            heard.append("one more")

    load_catalog([Listener(), Counter()]).relay.stage_completed(StageRecord(stage="prune-2", strategy="prune"))
    assert sorted(heard) == ["one more", "prune-2"]


def test_a_listener_that_fails_is_named() -> None:
    class Listener:
        @hookimpl
        def compressor_stage_completed(self, record: StageRecord) -> None:
            raise KeyError(record.stage)

    relay = load_catalog([Listener()]).relay
    with pytest.raises(PluginError, match=r"plugin 'Listener'.*KeyError: 'prune'"):
        relay.stage_completed(StageRecord(stage="prune", strategy="prune"))


def test_reading_and_planning_do_not_import_torch() -> None:
    modules = "compressor.planning, compressor.recipe_schema, compressor.recipe_file, compressor.plugin_catalog"
    command = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
