"""An example plugin: the strategy `weight-rounding` and the metric `max-abs-difference`."""
