from __future__ import annotations

from pathlib import Path

import pytest

from compressor.pipeline import RunResult
from compressor.plugin_catalog import Catalog, load_catalog
from compressor.testing.tiny_runs import TinyPlugin
from tests.compressor.tiny_runs import (
    Faulty,
    NotExact,
    Runs,
)


@pytest.fixture(scope="session")
def tiny_catalog() -> Catalog:
    return load_catalog(extra_plugins=[TinyPlugin(Faulty, NotExact)])


@pytest.fixture
def runs(tiny_onnx: Path, tiny_catalog: Catalog) -> Runs:
    return Runs(tiny_onnx, tiny_catalog)


@pytest.fixture(scope="session")
def finished(tiny_onnx: Path, tiny_catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return Runs(tiny_onnx, tiny_catalog).run(tmp_path_factory.mktemp("runs") / "finished")
