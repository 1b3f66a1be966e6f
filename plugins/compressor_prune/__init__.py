"""Fewer channels: which ones, how many, and what the rest must make up for."""
