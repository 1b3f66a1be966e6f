"""Recurrent layers, step by step: torch's own lack ONNX's activations, clipping, coupled gates and layouts.

Gates come in ONNX's order: input, output, forget, cell for LSTM; update, reset, hidden for GRU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compressor_onnx_ops.operators import operator

Activation = Callable[[Tensor], Tensor]


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    """Return an activation by ONNX's name, with the defaults of the operator of that name."""
    named: dict[str, Activation] = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "relu": torch.relu,
        "softplus": functional.softplus,
        "softsign": functional.softsign,
        "affine": lambda x: (1.0 if alpha is None else alpha) * x + (beta or 0.0),
        "leakyrelu": lambda x: functional.leaky_relu(x, 0.01 if alpha is None else alpha),
        "thresholdedrelu": lambda x: torch.where(x > (1.0 if alpha is None else alpha), x, torch.zeros_like(x)),
        "scaledtanh": lambda x: (1.0 if alpha is None else alpha) * torch.tanh((1.0 if beta is None else beta) * x),
        "hardsigmoid": lambda x: ((0.2 if alpha is None else alpha) * x + (0.5 if beta is None else beta)).clamp(0, 1),
        "elu": lambda x: functional.elu(x, 1.0 if alpha is None else alpha),
    }
    if name.lower() not in named:
        raise NotImplementedError(f"the activation {name} of a recurrent layer")
    return named[name.lower()]


class _Options:
    """What the recurrent operators have in common."""

    def __init__(self, defaults: list[str], given: dict[str, Any]) -> None:
        self.directions = 2 if given.get("direction") == "bidirectional" else 1
        self.backwards = [given.get("direction") == "reverse"] if self.directions == 1 else [False, True]
        names = given.get("activations") or defaults * self.directions
        alphas = list(given.get("activation_alpha") or [])
        betas = list(given.get("activation_beta") or [])
        made = [
            _activation(name, alphas[at] if at < len(alphas) else None, betas[at] if at < len(betas) else None)
            for at, name in enumerate(names)
        ]
        each = len(defaults)
        self.activations = [made[at * each : (at + 1) * each] for at in range(self.directions)]
        self.clip = given.get("clip")
        self.batch_first = bool(given.get("layout", 0))

    def clipped(self, x: Tensor) -> Tensor:
        """Return what an activation reads."""
        return x if self.clip is None else x.clamp(-self.clip, self.clip)


Step = Callable[[Tensor, tuple[Tensor, ...], int], tuple[Tensor, ...]]


def _run(
    x: Tensor, lengths: Tensor | None, initial: list[tuple[Tensor, ...]], options: _Options, step: Step
) -> tuple[Tensor, list[Tensor]]:
    """Run all directions over (steps, batch, inputs): (steps, directions, batch, hidden), and the last states."""
    steps = x.shape[0]
    outputs, lasts = [], []
    for direction, backwards in enumerate(options.backwards):
        state = initial[direction]
        made: list[Tensor] = [x.new_zeros(0)] * steps
        for at in reversed(range(steps)) if backwards else range(steps):
            following = step(x[at], state, direction)
            if lengths is not None:
                alive = (at < lengths).unsqueeze(1)
                following = tuple(torch.where(alive, new, old) for new, old in zip(following, state, strict=True))
                made[at] = torch.where(alive, following[0], torch.zeros_like(following[0]))
            else:
                made[at] = following[0]
            state = following
        outputs.append(torch.stack(made))
        lasts.append(state)
    return torch.stack(outputs, 1), [torch.stack(parts) for parts in zip(*lasts, strict=True)]


def _layer(
    inputs: tuple[Tensor | None, ...], gates: int, options: _Options, states: int, make_step: Callable[..., Step]
) -> tuple[Tensor, ...]:
    x, weight, recurrence, bias, lengths = (*inputs, *(None,) * 5)[:5]
    if x is None or weight is None or recurrence is None:
        raise ValueError("a recurrent layer without its signal or its weights")
    hidden = recurrence.shape[-1]
    x = x.transpose(0, 1) if options.batch_first else x
    both = recurrence.new_zeros(options.directions, 2 * gates * hidden) if bias is None else bias
    given = [*inputs[5 : 5 + states], *(None,) * states][:states]
    starts = [
        (value.transpose(0, 1) if options.batch_first else value)
        if value is not None
        else x.new_zeros(options.directions, x.shape[1], hidden)
        for value in given
    ]
    initial = [tuple(start[direction] for start in starts) for direction in range(options.directions)]
    step = make_step(weight, recurrence, both[:, : gates * hidden], both[:, gates * hidden :])
    outputs, lasts = _run(x, lengths, initial, options, step)
    if options.batch_first:
        return outputs.permute(2, 0, 1, 3), *(last.transpose(0, 1) for last in lasts)
    return outputs, *lasts


@operator("RNN")
def rnn(*inputs: Tensor | None, hidden_size: int | None = None, **given: Any) -> tuple[Tensor, ...]:
    options = _Options(["Tanh"], given)

    def make_step(w: Tensor, r: Tensor, b: Tensor, rb: Tensor) -> Step:
        def step(x: Tensor, state: tuple[Tensor, ...], at: int) -> tuple[Tensor, ...]:
            total = x @ w[at].t() + state[0] @ r[at].t() + b[at] + rb[at]
            return (options.activations[at][0](options.clipped(total)),)

        return step

    return _layer(inputs, 1, options, 1, make_step)


@operator("GRU")
def gru(
    *inputs: Tensor | None, hidden_size: int | None = None, linear_before_reset: int = 0, **given: Any
) -> tuple[Tensor, ...]:
    options = _Options(["Sigmoid", "Tanh"], given)

    def make_step(w: Tensor, r: Tensor, b: Tensor, rb: Tensor) -> Step:
        def step(x: Tensor, state: tuple[Tensor, ...], at: int) -> tuple[Tensor, ...]:
            (h,) = state
            gate, candidate = options.activations[at]
            (wz, wr, wh), (rz, rr, rh) = w[at].chunk(3), r[at].chunk(3)
            (bz, br, bh), (cz, cr, ch) = b[at].chunk(3), rb[at].chunk(3)
            update = gate(options.clipped(x @ wz.t() + h @ rz.t() + bz + cz))
            reset = gate(options.clipped(x @ wr.t() + h @ rr.t() + br + cr))
            inner = reset * (h @ rh.t() + ch) if linear_before_reset else (reset * h) @ rh.t() + ch
            new = candidate(options.clipped(x @ wh.t() + inner + bh))
            return ((1 - update) * new + update * h,)

        return step

    return _layer(inputs, 3, options, 1, make_step)


@operator("LSTM")
def lstm(
    *inputs: Tensor | None, hidden_size: int | None = None, input_forget: int = 0, **given: Any
) -> tuple[Tensor, ...]:
    options = _Options(["Sigmoid", "Tanh", "Tanh"], given)
    peepholes = inputs[7] if len(inputs) > 7 else None

    def make_step(w: Tensor, r: Tensor, b: Tensor, rb: Tensor) -> Step:
        def step(x: Tensor, state: tuple[Tensor, ...], at: int) -> tuple[Tensor, ...]:
            h, c = state
            gate, candidate, output = options.activations[at]
            i, o, f, g = (x @ w[at].t() + h @ r[at].t() + b[at] + rb[at]).chunk(4, -1)
            pi, po, pf = peepholes[at].chunk(3) if peepholes is not None else (0.0, 0.0, 0.0)
            entering = gate(options.clipped(i + pi * c))
            kept = 1 - entering if input_forget else gate(options.clipped(f + pf * c))
            cell = kept * c + entering * candidate(options.clipped(g))
            return gate(options.clipped(o + po * cell)) * output(cell), cell

        return step

    return _layer(inputs[:7], 4, options, 2, make_step)
