"""How wide a group of channels may become, and how wide it becomes at a given share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from compressor_prune.channel_groups import ChannelGroup


@dataclass(frozen=True)
class Widths:
    """The widths that a group may take besides its own: multiples of a step, never zero."""

    width: int
    step: int
    least: int

    @classmethod
    def of(cls, group: ChannelGroup, round_to: int, max_ratio: float) -> Widths:
        """Return the widths of a group of which at most a share of `max_ratio` may go."""
        step = group.step(round_to)
        # Half a thousandth of a channel, for shares such as 0.9 that are no binary numbers.
        least = ceil((group.width * (1.0 - max_ratio) - 5e-4) / step) * step
        return cls(group.width, step, max(step, least))

    @property
    def narrower(self) -> range:
        """Return all widths below the group's own."""
        return range(self.least, self.width, self.step)

    def nearest(self, wanted: float) -> int:
        """Return the allowed width nearest to a wanted one, the wider of two, or the group's own."""
        best: tuple[float, int] = min((abs(width - wanted), -width) for width in [*self.narrower, self.width])
        return -best[1]

    def on_the_way(self, final: int, step: int, steps: int) -> int:
        """Return the width after one of `steps` equal steps to a final one."""
        return final if step == steps else max(final, self.nearest(self.width + (final - self.width) * step / steps))


def above_threshold(scores: Mapping[ChannelGroup, Tensor], ratio: float) -> dict[ChannelGroup, float]:
    """Return how many channels of each group score above the one threshold that a share of all channels is below.

    Args:
        scores: by unit, comparable between groups.
        ratio: share of all groups' channels below the threshold.
    """
    ranked: Sequence[tuple[float, ChannelGroup]] = sorted(
        ((score, group) for group, values in scores.items() for score in values.tolist()), key=lambda entry: entry[0]
    )
    kept = {group: float(group.width) for group in scores}
    going = ratio * sum(kept.values())
    for _, group in ranked:
        if going < group.unit_width:
            break
        going -= group.unit_width
        kept[group] -= group.unit_width
    return kept
