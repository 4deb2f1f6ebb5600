"""Every rule for the penalty weight λ of one inverse problem, side by side: λ = σ²/scale² of the prior."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from bayesreg import _check
from bayesreg._catalog import concrete
from bayesreg._text import AbstractTextTable, number, plus_minus
from bayesreg.inference import fit
from bayesreg.inverse.quadrature import Estimated, Quadrature, by_lanczos
from bayesreg.inverse.rules import AbstractRule, curvature
from bayesreg.inverse.setting import Setting, declared, true_field
from bayesreg.inverse.spectrum import Measured, Spectrum
from bayesreg.model.model import BayesianModel

if TYPE_CHECKING:
    import pandas as pd

_LEFT = 0.05  # share of M
_LARGE = 1.5  # a residual over σ√M that is no noise
_GRID = -16, 2, 181  # powers of ten of the largest singular value's square, and how many λ

_FAR = 0.1  # of GCV's λ
_WARNING = (
    "The evidence trusts the prior: one that expects rougher x than the truth (independent entries, of a smooth one) gives it "
    "too small a λ, too weak a penalty, which is the prior's error, not the rule's. inverse.compare_priors ranks priors by it."
)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """What one rule chose.

    Attributes:
        rule: Its name.
        lam: λ = noise_scale²/prior_scale², in the units of ‖A x − b‖² + λ ‖L x‖², L the prior's root at scale 1; NaN: none.
        prior_scale: The prior's scale.
        noise_scale: The noise's sd: the known one, else the one that the rule finds.
        degrees_of_freedom: How many unknowns the data decide there.
        residual: ‖A x_λ − b‖.
        remark: Why there is no answer, or why it is in doubt; empty where all is well.
    """

    rule: str
    lam: float
    prior_scale: float
    noise_scale: float
    degrees_of_freedom: float
    residual: float
    remark: str = ""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Choice(AbstractTextTable):
    """The λ of each rule, as a table; `model("gcv")` is the model at that prior scale.

    Attributes:
        setting: The problem.
        data: Its spectrum and measurements.
        lambdas: λ that were looked at, (R,) increasing.
        rules: The rules, by name.
        chosen: What each chose, by name.
        left_out: Why rules that need the noise's sd are not among them; empty where all are.
    """

    setting: Setting
    data: Measured
    lambdas: torch.Tensor
    rules: dict[str, AbstractRule]
    chosen: dict[str, Chosen]
    left_out: str = ""

    def __getitem__(self, rule: str) -> Chosen:
        return self.chosen[_check.one_of("rule", rule, self.chosen)]

    def _answer(self, rule: str) -> Chosen:
        found = self[rule]
        if math.isnan(found.lam):
            raise ValueError(
                f"a model must have a λ, but {found.remark.removesuffix('.')}; take another rule, or set the scale."
            )
        return found

    def model(self, rule: str = "gcv") -> BayesianModel:
        """The model at the prior scale of a rule, its noise scale a number: ready for any method.

        The whole prior is stretched: of Smooth, scale and level_scale together.

        Raises:
            ValueError: If the rule was not asked for, or has no answer.
        """
        found = self._answer(rule)
        return self.setting.at(found.prior_scale, found.noise_scale)

    def solution(self, rule: str = "gcv") -> torch.Tensor:
        """The regularised answer of a rule, in the unknown's shape; the mode of `model(rule)`.

        Raises:
            ValueError: As for `model`.
        """
        if not self.exact:
            return fit(self.model(rule), None, self.setting.given, method="map").mean["x"].double()
        return self.data.solution(self._answer(rule).lam).reshape(self.setting.operator.shape)

    @property
    def exact(self) -> bool:
        """Whether the operator was taken apart; else sums over its spectrum are estimated, and there is no error curve."""
        return not isinstance(self.data.spectrum, Quadrature)

    @property
    def noise_scale(self) -> float:
        """The noise's sd by which λ is a prior scale on a shared axis: the known one, else that of the first rule."""
        if self.setting.sigma is not None:
            return self.setting.sigma
        found = [c.noise_scale for c in self.chosen.values() if math.isfinite(c.noise_scale)]
        return found[0] if found else 1.0

    @cached_property
    def curves(self) -> dict[str, torch.Tensor]:
        """What each rule minimises, at `lambdas`."""
        return {name: rule.curve(self.data, self.lambdas, self.setting.sigma) for name, rule in self.rules.items()}

    @cached_property
    def curvature(self) -> torch.Tensor:
        """Curvature of the L-curve at `lambdas`."""
        return curvature(self.data, self.lambdas)

    def errors(self, truth: Any) -> dict[str, float]:
        """Relative error ‖x_λ − x‖/‖x‖ of each rule's answer, and of the best λ, which only the truth can tell.

        Args:
            truth: x, in the unknown's shape.

        Returns:
            By rule; "best" is last, where the operator was taken apart.

        Raises:
            ValueError: If the truth has another shape.
        """
        x = true_field(self.setting.operator, truth).reshape(-1)
        size = float(x.norm())

        def error(found: torch.Tensor) -> float:
            return float((found.reshape(-1) - x).norm()) / size

        answered = {name: not math.isnan(c.lam) for name, c in self.chosen.items()}
        found = {name: error(self.solution(name)) if there else math.nan for name, there in answered.items()}
        if not self.exact:
            return found
        return found | {"best": min(error(self.data.solution(lam)) for lam in self.lambdas.tolist())}

    def to_frame(self) -> pd.DataFrame:
        """One row a rule: rule, lambda, prior_scale, noise_scale, degrees_of_freedom, residual, assumes, remark."""
        import pandas as pd

        rows = [{**dataclasses.asdict(c), "assumes": self.rules[name].assumes} for name, c in self.chosen.items()]
        return pd.DataFrame(rows).rename(columns={"lam": "lambda"})

    @property
    def caption(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What is chosen."""
        known = "σ is not known" if self.setting.sigma is None else f"σ = {number(self.setting.sigma)} is known"
        return f"min ‖A x − b‖² + λ ‖L x‖², λ = σ²/scale², of x with the prior {self.setting.prior}; {known}"

    @property
    def heads(self) -> Sequence[str]:
        """Heads of the columns."""
        return ["rule", "λ", "prior scale", "noise scale", "df", "residual", "residual/σ√M"]

    @property
    def cells(self) -> Sequence[Sequence[str]]:
        """A row a rule."""
        expected = math.sqrt(len(self.data.b))

        def row(c: Chosen) -> list[str]:
            values = [c.lam, c.prior_scale, c.noise_scale, c.degrees_of_freedom, c.residual]
            values.append(c.residual / (self.setting.sigma or c.noise_scale) / expected)
            return [c.rule, *("–" if math.isnan(v) else number(v, 3) for v in values)]

        return [row(c) for c in self.chosen.values()]

    @property
    def notes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What each rule assumes, and what is in doubt."""
        said = [f"{name} assumes {rule.assumes}." for name, rule in self.rules.items()]
        said += [c.remark for c in self.chosen.values() if c.remark]
        said += [self.left_out] if self.left_out else []
        said += [] if self.exact else [self._estimated]
        return (*said, self.warning) if self.warning else tuple(said)

    @property
    def _estimated(self) -> str:
        """How well the traces are known, at the first answer."""
        spectrum = self.data.spectrum
        lam = next((c.lam for c in self.chosen.values() if not math.isnan(c.lam)), 1.0)
        if not isinstance(spectrum, Quadrature):
            return ""
        traces = spectrum.traces(lam)
        error = float(traces.std()) / math.sqrt(len(traces))
        return (
            f"The operator is too large to be taken apart: df are estimated by {len(traces)} random probes, "
            f"{plus_minus(float(traces.mean()), error)} at λ = {number(lam, 2)}."
        )

    @property
    def warning(self) -> str:
        """What to think where the evidence takes a much smaller λ than GCV; empty where it does not."""
        evidence, gcv = self.chosen.get("evidence"), self.chosen.get("gcv")
        if not evidence or not gcv or not evidence.lam < _FAR * gcv.lam:
            return ""
        return f"evidence takes a λ {number(gcv.lam / evidence.lam, 2)} times as small as gcv. {_WARNING}"

    def __repr__(self) -> str:
        return f"Choice({', '.join(f'{name}: λ = {c.lam:.3g}' for name, c in self.chosen.items())})"


def choose(model: BayesianModel, b: Any, rules: Sequence[str] | None = None, *, lambdas: Any = None) -> Choice:
    """Choose the strength of a quadratic penalty from the data, by every rule that applies.

    The prior of x is held at its form and stretched: λ = σ²/scale². Where σ is not known, each rule finds its own.

    Args:
        model: A model of a linear operator, with a Gaussian prior (Normal, Smooth, MultivariateNormal) and Gaussian noise.
        b: Measurements, of the operator's `output_shape`.
        rules: Names: "gcv", "l-curve", "discrepancy", "evidence", "evidence-profiled", "quasi-optimality"; None for all that
            apply.
        lambdas: λ to choose among, (R,), increasing, at least three; None for a fine grid, which is searched between too.

    Returns:
        One row a rule.

    Raises:
        ValueError: If a rule is unknown, "discrepancy" is asked for and the noise scale is not known, the model is another, the
            posterior improper, or b does not fit.

    References:
        Hansen (1998), Rank-deficient and discrete ill-posed problems.

    >>> import bayesreg as br
    >>> A = torch.vander(torch.linspace(0, 1, 30, dtype=torch.float64), 8)
    >>> b = A.sum(1) + 0.1 * torch.randn(30, generator=torch.Generator().manual_seed(0))
    >>> model = br.BayesianModel(br.operators.Dense(A), {"x": br.priors.Normal(1.0)}, br.likelihoods.Gaussian(0.1))
    >>> found = choose(model, b, ["discrepancy"])["discrepancy"]
    >>> round(found.residual / (0.1 * 30**0.5), 6), bool(abs(found.lam - (0.1 / found.prior_scale) ** 2) < 1e-12)
    (1.0, True)
    """
    problem = declared(model, b)
    kinds: Sequence[Any] = concrete(AbstractRule)
    known = {rule.name: rule for rule in (kind() for kind in kinds)}
    taken = list(known) if rules is None else [_check.one_of("rules", name, known) for name in rules]
    left_out = ""
    if problem.sigma is None:
        lacking = [name for name in taken if known[name].needs_noise]
        taken = [name for name in taken if name not in lacking and (rules is not None or name != "evidence-profiled")]
        if lacking and rules is not None:
            raise ValueError(
                f"{lacking[0]} must know the noise's sd, but {model.likelihood} came; write likelihoods.Gaussian(0.01), or "
                "take 'gcv' or 'evidence'."
            )
        left_out = f"{', '.join(lacking)}: left out, since it must know σ." if lacking else ""
    _check.distinct("rules", taken)
    data = _measured(problem)
    grid = _grid(data.spectrum, lambdas)
    chosen = {name: _chosen(known[name], data, grid, problem.sigma, refine=lambdas is None) for name in taken}
    return Choice(problem, data, grid, {name: known[name] for name in taken}, chosen, left_out)


def _measured(problem: Setting) -> Measured:
    """The spectrum and the measurements: taken apart where that is cheap, else by quadrature.

    Raises:
        ValueError: If A is zero where the prior restricts, or the posterior improper.
    """
    if problem.matrix is None or problem.root is None:
        with torch.no_grad():
            spectrum: Spectrum = by_lanczos(problem.product, problem.b)
        kind = Estimated
    else:
        spectrum, kind = Spectrum.of(problem.matrix, problem.root), Measured
    if not len(spectrum.values) or not float(spectrum.values[0]):
        raise ValueError("A must say something about x, but it is zero where the prior restricts; look at inverse.analyse.")
    return kind(spectrum, problem.b, problem.mean)


def _grid(spectrum: Spectrum, lambdas: Any) -> torch.Tensor:
    if lambdas is None:
        low, high, count = _GRID
        grid = float(spectrum.values[0]) ** 2 * torch.logspace(low, high, count, dtype=torch.float64)
        # where traces are estimated, so is what is left of M: only λ that leave enough of it
        if not isinstance(spectrum, Quadrature):
            return grid
        return grid[(spectrum.left_over(grid) > _LEFT * spectrum.num_data) & (grid >= spectrum.least)]
    found = _check.all_finite("lambdas", torch.as_tensor(lambdas, dtype=torch.float64))
    if found.dim() != 1 or len(found) < 3 or not bool((found > 0).all() and (found.diff() > 0).all()):
        raise ValueError(
            "lambdas must be at least three numbers > 0 that increase; take for example numpy.logspace(-8, 2, 100)."
        )
    return found


def _chosen(rule: AbstractRule, data: Measured, grid: torch.Tensor, sigma: float | None, *, refine: bool) -> Chosen:
    lam, remark = rule.pick(data, grid, sigma, refine=refine)
    if math.isnan(lam):
        return Chosen(rule.name, lam, lam, lam, lam, lam, remark)
    noise = rule.noise_scale(data, lam, sigma)
    ratio = math.sqrt(float(data.residual_squares(lam)) / len(data.b)) / noise
    if sigma is not None and ratio > _LARGE and not remark:
        remark = f"{rule.name}: its residual is {number(ratio, 2)} times σ√M, more than noise leaves: it smooths too much here."
    freedom, residual = float(data.spectrum.degrees_of_freedom(lam)), math.sqrt(float(data.residual_squares(lam)))
    return Chosen(rule.name, lam, noise / math.sqrt(lam), noise, freedom, residual, remark)
