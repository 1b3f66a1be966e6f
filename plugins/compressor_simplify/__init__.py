"""Simpler graphs: constants folded into weights, activations that every engine is fast at."""
