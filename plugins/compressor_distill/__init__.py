"""Distillation: train a student to put out what its teacher puts out."""
