"""Convolutions in other forms: depthwise-separable, polyphase, two-dimensional."""
