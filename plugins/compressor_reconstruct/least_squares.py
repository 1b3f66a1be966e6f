"""`least-squares-reconstruction`: refit what is left to what the teacher computes, layer by layer, in closed form.

In execution order each layer sees the student's own inputs, errors of the layers before it included, and is solved
against the teacher's outputs (He et al., arXiv 1707.06168); where a layer ends in a residual sum, against what the sum
still lacks. Teacher and student run side by side, node by node, so the time grows with the number of layers only.
Samples held out have the last word: on each layer, and at the model's output on all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from compressor.strategy import Finding, StageContext, StageOutcome, Strategy

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor_reconstruct.side_by_side import SideBySide
    from compressor_reconstruct.sites import Site

ROUNDING = 1e-6
"""Distance of outputs that counts as none."""


class LeastSquaresReconstruction(Strategy):
    """Solve for the weights of layers whose output the teacher computes too.

    ```yaml
    - least-squares-reconstruction: {calibration_samples: 12}
    ```
    """

    name: ClassVar[str] = "least-squares-reconstruction"
    needs_data: ClassVar[bool] = True
    keeps_structure: ClassVar[bool] = True

    targets: tuple[str, ...] = Field(default=("*",), description="layers to refit, by name pattern")
    ignore: tuple[str, ...] = Field(default=(), description="layers to leave, by name pattern")
    calibration_samples: int = Field(default=18, ge=3, description="training samples; every third one is held out")
    longest: int = Field(default=64, ge=1, description="samples are cut to this along their dynamic axis")
    positions: int = Field(default=1024, ge=16, description="output positions of a sample that are looked at, about")

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor.calibration import calibration_inputs
        from compressor.graph_editing import input_specs
        from compressor_reconstruct.output_judge import OutputJudge
        from compressor_reconstruct.side_by_side import SideBySide

        if context.data is None:
            return StageOutcome(student, (Finding("no data to reconstruct on: nothing refitted"),))
        teacher = context.teacher.graph
        sites = self._sites(student, teacher)
        samples = list(
            calibration_inputs(input_specs(teacher), context.data.train[: self.calibration_samples], self.longest)
        )
        if not sites or len(samples) < 3:
            reason = (
                "no layer's output is one of the teacher's" if not sites else "fewer than three samples to train on"
            )
            return StageOutcome(student, (Finding(f"nothing refitted: {reason}"),))
        judge = OutputJudge(teacher, samples[2::3])
        found_weights = {name: value.clone() for name, value in student.state_dict().items()}
        before = judge.distance(student)
        both = SideBySide(student, teacher, sites, samples)
        findings = []
        with context.reporter.task("refitting layers", len(sites)) as task:
            for site in sites:
                findings.append(self._refit(student, site, both))
                task.advance()
        after = judge.distance(student)
        if not after <= 1.01 * before + ROUNDING:
            student.load_state_dict(found_weights)
            findings = [_taken_back(before, after)]
        return StageOutcome(student, tuple(findings))

    def _sites(self, student: GraphModule, teacher: GraphModule) -> list[Site]:
        from compressor.graph_editing import layer_name, select
        from compressor_reconstruct.sites import find_sites

        found = find_sites(student, teacher)
        names = list(dict.fromkeys(layer_name(term.node) for site in found for term in site.terms))
        chosen = set(select(names, self.targets, self.ignore)) if names else set()
        return [site for site in found if all(layer_name(term.node) in chosen for term in site.terms)]

    def _refit(self, student: GraphModule, site: Site, both: SideBySide) -> Finding:
        from compressor_reconstruct.kept_channels import same_channels
        from compressor_reconstruct.refit import SiteWeights, refit

        both.advance(site)
        evidence = same_channels(both.evidence(site))
        ours, theirs = evidence[0].now, evidence[0].wanted
        if ours.shape != theirs.shape:
            channels = f"{ours.shape[1]} channels here, {theirs.shape[1]} in the teacher"
            return Finding(f"not refitted: {channels}, and which of these they are does not show", site.name)
        found = refit(SiteWeights(student, site), evidence, self.positions)
        both.refitted(site)
        if found.ridge is None:
            return Finding(f"left as it is: samples held out prefer it ({found.before:.2%} off)", site.name)
        return Finding(
            f"{found.before:.2%} to {found.after:.2%} off on samples held out, ridge {found.ridge:g}",
            site.name,
            {"error_before": found.before, "error_after": found.after, "ridge": found.ridge},
        )


def _taken_back(before: float, after: float) -> Finding:
    return Finding(
        "taken back: layers came closer to the teacher's, but what comes out of samples held out went further away "
        f"({before:.3f} before, {after:.3f} after), as where the stages before lost the teacher's waveform",
        values={"distance_before": before, "distance_after": after},
    )
