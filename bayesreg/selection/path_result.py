"""The result of `path`: the fits of one model under many prior scales."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import torch

from bayesreg import _check
from bayesreg._text import aligned
from bayesreg.certificates.mode import certify
from bayesreg.data.rows import Data
from bayesreg.inference.base import isolated
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint
from bayesreg.posteriors.dirac import Dirac
from bayesreg.posteriors.record import FitRecord
from bayesreg.solvers.history import History
from bayesreg.solvers.probe import further

if TYPE_CHECKING:
    import pandas as pd

RULES = ("cv", "1se", "evidence")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Path:
    """The modes of one model under R prior scales, from the strongest penalty to the weakest.

    Attributes:
        models: The model under each scale, bound to its data, with the running statistics of its own fit where there is batch
            normalisation.
        data: All rows, prepared.
        names: The tensors whose priors' scale varies.
        scales: The number in the field `scale` of their priors (ElasticNet: l1_scale), (R,), increasing.
        power: 2 where the penalty's weight is 1/scale² (quadratic penalties), else 1.
        modes: (R, P), unconstrained.
        log_joint: Log p(y, θ | x) at each mode, in nats, summed over the data, in their own units, (R,).
        degrees_of_freedom: Effective number of weights, see `selection.model_size`, (R,); None with more than 2,000
            unknowns, or batch normalisation, whose fits end at no mode of one objective.
        held_out: Mean log predictive density of a left-out row, in nats and the data's own units, (folds, R); None without
            cross-validation.
        fold: Each row's fold, (N,), or None.
        log_evidence: Laplace's approximation of log p(y | x) in nats, (R,), NaN where a mode was not reached; or None.
        no_evidence: Why there is no log evidence, or an empty text.
        seed: Seed of the folds.
        elapsed: Seconds.
    """

    models: tuple[BayesianModel, ...]
    data: Data
    names: tuple[str, ...]
    scales: torch.Tensor
    power: int
    modes: torch.Tensor
    log_joint: torch.Tensor
    degrees_of_freedom: torch.Tensor | None
    held_out: torch.Tensor | None
    fold: torch.Tensor | None
    log_evidence: torch.Tensor | None
    no_evidence: str
    seed: int = 0
    elapsed: float = 0.0

    def __len__(self) -> int:
        return len(self.scales)

    @property
    def lambdas(self) -> torch.Tensor:
        """The penalty's weight in nats, (R,): 1/scale for each unit of |w| or a norm, 1/scale² for each unit of ½w².

        It refers to the objective as a sum over the data set. A tool that averages over rows or leaves the noise out has
        another number for the same fit: `bayesreg.equivalents` gives it.
        """
        return self.scales**-self.power

    @property
    def coefficients(self) -> dict[str, torch.Tensor]:
        """Every unknown by name, (R, *shape), in the units that the model works in."""
        layout = LogJoint(self.models[0]).layout
        found = [layout.unflatten(u) for u in self.modes]
        return {name: torch.stack([values[name] for values in found]).detach() for name in layout.segments}

    @property
    def zeros(self) -> torch.Tensor:
        """How many weights of the tensors on the path are exactly zero under each scale, (R,)."""
        found = self.coefficients
        return sum((found[n].flatten(1) == 0).sum(1) for n in self.names)  # pyright: ignore[reportReturnType]

    @property
    def score(self) -> torch.Tensor:
        """Mean over folds of `held_out`, (R,).

        Raises:
            ValueError: If there was no cross-validation.
        """
        return self._held_out().mean(0)

    @property
    def standard_error(self) -> torch.Tensor:
        """Of `score`: the sd of the folds' means over √folds, (R,).

        Raises:
            ValueError: If there was no cross-validation.
        """
        held_out = self._held_out()
        return held_out.std(0) / math.sqrt(len(held_out))

    def _held_out(self) -> torch.Tensor:
        if self.held_out is None:
            raise ValueError("a held-out score must have folds, but folds=None came; call path(..., folds=5).")
        return self.held_out

    def best(self, rule: str = "cv") -> float:
        """The scale that a rule chooses.

        Args:
            rule: "cv": the highest mean held-out score. "1se": the strongest penalty whose score is within one standard error
                of that (Breiman et al. 1984), a simpler model that predicts about as well. "evidence": the highest log
                evidence.

        Returns:
            The scale.

        Raises:
            ValueError: If the rule is unknown, or its criterion was not computed; says why.

        References:
            Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees, section 3.4.3. MacKay (1992),
            Bayesian interpolation.
        """
        _check.one_of("rule", rule, RULES)
        if rule == "evidence":
            if self.log_evidence is None:
                why = self.no_evidence
                raise ValueError(f"best('evidence') must have evidences to compare, but {why}; take 'cv' or '1se'.")
            if bool(self.log_evidence.isnan().all()):
                raise ValueError(
                    "best('evidence') must have modes to approximate the evidence at, but no fit reached one; raise num_steps, "
                    "or take 'cv' or '1se'."
                )
            return float(self.scales[self.log_evidence.nan_to_num(nan=-math.inf).argmax()])
        score = self.score
        top = int(score.argmax())
        if rule == "cv":
            return float(self.scales[top])
        within = score >= score[top] - self.standard_error[top]
        return float(self.scales[int(within.nonzero()[0])])  # scales increase: the first is the strongest penalty

    def index(self, scale: float) -> int:
        """The number of a scale on the path.

        Raises:
            ValueError: If it is none of them; the nearest is named.
        """
        distance = (self.scales.log() - math.log(_check.positive("scale", scale))).abs()
        nearest = int(distance.argmin())
        if float(distance[nearest]) > 1e-6:
            near = float(self.scales[nearest])
            raise ValueError(f"scale must be one of the path's {len(self)}, but {scale:g} came; the nearest is {near:g}.")
        return nearest

    def fit(self, scale: float) -> Dirac:
        """The fit under one of the path's scales, `path.fit(path.best("1se"))`.

        Args:
            scale: One of `scales`.

        Returns:
            A posterior that is a point, as `fit(..., method="map")` gives it.
        """
        return self.posterior(self.index(scale))

    def posterior(self, index: int) -> Dirac:
        """The fit with this number, with a certificate of its own.

        Args:
            index: 0 is the strongest penalty; negative numbers count from the weakest.

        Returns:
            A posterior that is a point, bound to the data: it predicts.

        Raises:
            ValueError: If there is no such fit.
        """
        if isinstance(index, bool) or not isinstance(index, int) or not -len(self) <= index < len(self):
            raise ValueError(f"index must be a whole number from 0 to {len(self) - 1}, but {index!r} came; see path.scales.")
        model, u = self.models[index], self.modes[index]
        with isolated(self.seed, model.like.device):
            log_joint = LogJoint(model)
            start = log_joint.layout.flatten(model.start(*next(self.data.epoch())))
            certificate = certify(log_joint, u, start, self.data, False, lambda steps: further(log_joint, u, self.data))
        where = f"scale {float(self.scales[index]):.4g} in the prior of {', '.join(self.names)}"
        note = f"one of {len(self)} fits made at once: {where}."
        record = FitRecord("map", self.seed, History(notes=[note]), certificate, self.elapsed, "constrained")
        return Dirac(model, record, u)

    def to_frame(self) -> pd.DataFrame:
        """One row a scale: scale, penalty_weight, zeros, degrees_of_freedom, log_joint, held_out and its se, log_evidence."""
        import pandas as pd

        columns: dict[str, Any] = {"scale": self.scales, "penalty_weight": self.lambdas, "zeros": self.zeros}
        columns |= {"degrees_of_freedom": self.degrees_of_freedom, "log_joint": self.log_joint}
        if self.held_out is not None:
            columns |= {"held_out": self.score, "held_out_se": self.standard_error}
        columns["log_evidence"] = self.log_evidence
        return pd.DataFrame({name: v.cpu().numpy() for name, v in columns.items() if v is not None})

    def marks(self) -> dict[str, int]:
        """The fit that each rule of `best` chooses, for rules whose criterion was computed."""
        found = {}
        for rule in RULES:
            known = self.log_evidence is not None and not bool(self.log_evidence.isnan().all())
            if known if rule == "evidence" else self.held_out is not None:
                found[rule] = self.index(self.best(rule))
        return found

    def __str__(self) -> str:
        frame = self.to_frame()
        digits = {"scale": "{:.4g}", "penalty_weight": "{:.4g}", "zeros": "{:d}", "degrees_of_freedom": "{:.1f}"}
        heads = {
            "penalty_weight": "1/scale²" if self.power == 2 else "1/scale",
            "degrees_of_freedom": "df",
            "held_out_se": "± se",
        }
        shown = {c: [digits.get(c, "{:,.3f}" if "held" in c else "{:,.1f}").format(v) for v in frame[c]] for c in frame}
        taken: dict[int, list[str]] = {}
        for rule, at in self.marks().items():
            taken.setdefault(at, []).append(rule)
        columns = [[heads.get(c, c.replace("_", " ")), *values] for c, values in shown.items()]
        columns.append(["best by", *(", ".join(taken.get(i, [])) for i in range(len(self)))])
        head = f"{len(self)} fits, the prior scale of {', '.join(self.names)}; in nats, held out for each row left out"
        return "\n".join([head, *aligned(list(zip(*columns, strict=True)), ">" * (len(columns) - 1))])

    def __repr__(self) -> str:
        best = ", ".join(f"{rule}: {float(self.scales[at]):.4g}" for rule, at in self.marks().items())
        return (
            f"Path({len(self)} scales {float(self.scales[0]):.4g} … {float(self.scales[-1]):.4g}; best by {best or 'nothing'})"
        )
