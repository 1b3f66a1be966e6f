"""What the built-in plugins are tested with, for the plugins of others: `check_…` for each kind, and tiny models.

```python
from compressor.testing import check_strategy

def test_it_keeps_to_the_contract():
    check_strategy(MyStrategy(rank=2))
```

The checks hold what the core relies on, not what a plugin is for: that is for its own tests to say.
"""

from __future__ import annotations

from compressor.testing.data_source_checks import check_data_source
from compressor.testing.failures import CheckFailedError
from compressor.testing.loss_checks import check_loss
from compressor.testing.metric_checks import check_metric
from compressor.testing.small_graphs import chain, inputs_of, traced
from compressor.testing.strategy_checks import check_strategy
from compressor.testing.tiny_runs import stage_context, tiny_teacher
from compressor.testing.tiny_vocoder import as_onnx, dataset, tiny_vocoder, vocoder_onnx

__all__ = [
    "CheckFailedError",
    "as_onnx",
    "chain",
    "check_data_source",
    "check_loss",
    "check_metric",
    "check_strategy",
    "dataset",
    "inputs_of",
    "stage_context",
    "tiny_teacher",
    "tiny_vocoder",
    "traced",
    "vocoder_onnx",
]
