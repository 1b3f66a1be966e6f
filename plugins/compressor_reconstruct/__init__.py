"""Closed-form recovery: what is left of a student's layers refitted to what the teacher computes there."""
