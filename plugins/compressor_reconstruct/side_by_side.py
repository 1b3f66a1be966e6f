"""Teacher and student on the same samples, node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.fx import GraphModule, Node

from compressor_reconstruct.refit import Evidence
from compressor_reconstruct.sites import Site
from compressor_reconstruct.stepwise import StepwiseRun


class SideBySide:
    """Runs both graphs as far as each site needs; values that no later site needs are forgotten."""

    def __init__(
        self, student: GraphModule, teacher: GraphModule, sites: Sequence[Site], samples: Sequence[tuple[Tensor, ...]]
    ) -> None:
        self.order = {node: position for position, node in enumerate(teacher.graph.nodes)}
        self.ours = StepwiseRun(student, samples, _needed_until(sites))
        self.theirs = StepwiseRun(teacher, samples, self._wanted_until(sites))

    def _wanted_until(self, sites: Sequence[Site]) -> dict[Node, Node]:
        """Return how far the teacher has run when the student comes to each site: it may be ahead of that site."""
        until: dict[Node, Node] = {}
        furthest = sites[0].teacher
        for site in sites:
            furthest = max(furthest, site.teacher, key=self.order.__getitem__)
            until[site.teacher] = furthest
        return until

    def advance(self, site: Site) -> None:
        """Compute the site's tensor in both."""
        self.ours.run_to(site.student)
        self.theirs.run_to(site.teacher)

    def evidence(self, site: Site) -> list[Evidence]:
        """Return what the site's layers read, put out and should put out, sample by sample."""
        reads = zip(*(self.ours.values(term.source) for term in site.terms), strict=True)
        triples = zip(reads, self.ours.values(site.student), self.theirs.values(site.teacher), strict=True)
        return [Evidence(tuple(read), now, wanted) for read, now, wanted in triples]

    def refitted(self, site: Site) -> None:
        """Compute the site's tensor again, with its layers' new weights."""
        self.ours.compute_again(site.inner)


def _needed_until(sites: Sequence[Site]) -> Mapping[Node, Node]:
    """Return what must be there to compute a site again: all that its nodes read."""
    return {source: site.student for site in sites for node in site.inner for source in node.all_input_nodes}
