"""A certificate in words: its sentence, and the names of its numbers. No other file words a certificate.

The verdict comes first, then everything else that was found: restarts, norms, equal predictions, the covariance, a noise that
runs to zero.
"""

# pyright: reportReturnType=false, reportOptionalMemberAccess=false, reportArgumentType=false, reportOperatorIssue=false, reportOptionalOperand=false
# each verdict is made together with the numbers that its sentence needs
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from bayesreg.certificates import words_of_approximations as approximations
from bayesreg.certificates import words_of_chains as chains
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import Alike, Cause, Lengths, NoMode, Restarts, VanishingNoise

if TYPE_CHECKING:
    from bayesreg.certificates.certificate import Certificate

_NOISE = "fix the noise scale, give it a prior that keeps it from zero (LogNormal)"


@dataclasses.dataclass(frozen=True)
class Advice:
    """A setting that a sentence tells the reader to change.

    Attributes:
        argument: Its name in Python, "num_steps".
        value: The value to set it to, where there is one.
        python: How it is written in Python; the argument's own name when empty.
    """

    argument: str
    value: str = ""
    python: str = ""


Spelling = Callable[[Advice], str]


def in_python(advice: Advice) -> str:
    """Advice for Python users."""
    return advice.python or advice.argument


_STEPS, _RATE, _BATCH = Advice("num_steps"), Advice("learning_rate"), Advice("batch_size")
_MEAN_FIELD = Advice("method", "mean-field", "MeanField")


def sentence(certificate: Certificate, spell: Spelling = in_python) -> str:
    """The verdict of a certificate, with advice when it was not passed; `spell` words a setting in Python or as an option."""
    c = certificate
    verdict = next(o for o in reversed((*c.overruled, c.finding)) if o not in ADDED)
    parts = [ADDED[o](c) for o in (*c.overruled, c.finding) if o in ADDED]
    parts.append(VERDICTS[verdict](c, spell))
    if c.restarts is not None:
        parts.append(_restarts(c.restarts))
    if c.lengths is not None:
        parts.append(_lengths(c.lengths))
    if c.alike is not None:
        parts.append(_alike(c.alike))
    if c.covariance is not None:
        parts.append(approximations.covariance(c.covariance))
    if c.importance is not None:
        parts.append(approximations.covering(c.importance))
    if c.tuned is not None:
        parts.append(approximations.tuned(c.tuned))
    if c.elbo is not None and c.elbo.of_batches:
        parts.append("Batch normalisation by mini-batches makes this ELBO differ from that of all rows.")
    if c.elbo is not None and c.elbo.collapsed:
        parts.append(approximations.collapsed(c.elbo))
    if c.noise is not None:
        parts.append(_vanishing(c.noise))
    if c.mixing is not None:
        parts.append(chains.tempered(c.mixing))
    return " ".join(part for part in parts if part)


def nats(value: float) -> str:
    """So many nats, in words."""
    return "less than 1e-6 nats" if value < 1e-6 else f"{value:.2g} nats"


# ── verdicts ──


def _converged(c: Certificate, spell: Spelling) -> str:
    left, enough = c.point.nats_to_gain, c.point.tolerance
    return f"Converged to a mode: {nats(left)} are left to gain, below {enough:.2g} (1 % of P/2)."


def _converged_at_kink(c: Certificate, spell: Spelling) -> str:
    return (
        "Converged to a mode where pieces of the piecewise linear network meet: a further search gains "
        f"{nats(c.point.by_further_search)}, below {max(0.1, c.point.tolerance):.2g} (1 % of P/2)."
    )


def _by_duality(c: Certificate) -> str:
    gap = c.point.duality_gap
    bound = nats(gap) if gap < 1e-6 else f"at most {nats(gap)}"
    return f"{bound} are left to gain, by the duality gap (tolerance {c.point.tolerance:.2g})"


def _gap_open(c: Certificate, spell: Spelling) -> str:
    return (
        f"Not converged: {_by_duality(c)}; standardise the inputs, drop collinear ones, or let the module be float64 "
        "(module.double()), which holds more digits."
    )


def _left(c: Certificate) -> float:
    """What is left to gain, by the last that looked."""
    p = c.point
    return next(gain for gain in (p.by_further_search, p.nats_to_gain, p.by_few_steps) if gain is not None)


def _seen(c: Certificate) -> str:
    rows, n = c.point.looked_rows, c.point.num_data
    return f"all {n:,} rows" if rows >= n else f"{rows:,} of {n:,} rows"


def _not_looked(c: Certificate, spell: Spelling) -> str:
    return (
        f"Not certified: a few steps on {_seen(c)} gain less than {nats(max(c.point.tolerance, 1e-6))}, and to look at the "
        f"curvature would cost more than a quarter of the search; raise {spell(_STEPS)}, or in Python say certify='full'."
    )


def _not_converged(c: Certificate, spell: Spelling) -> str:
    if c.point.nats_to_gain is None and c.point.by_few_steps is not None:
        return (
            f"Not converged: at least {nats(c.point.by_few_steps)} are left to gain, by a few steps on {_seen(c)} (tolerance "
            f"{c.point.tolerance:.2g}); raise {spell(_STEPS)}."
        )
    left, enough = nats(_left(c)), c.point.tolerance
    return f"Not converged: about {left} are left to gain (tolerance {enough:.2g}); raise {spell(_STEPS)}."


def _climb_unfinished(c: Certificate, spell: Spelling) -> str:
    return (
        f"Not converged: about {nats(_left(c))} are left to gain (more than 1 % of the {max(0.0, c.point.climbed):.3g} climbed "
        f"since the start); raise {spell(_STEPS)}."
    )


def _below_start(c: Certificate, spell: Spelling) -> str:
    return (
        f"Not converged: the search ended {nats(-c.point.climbed)} below its start; lower {spell(_RATE)}, and raise "
        f"{spell(_STEPS)} or {spell(_BATCH)}."
    )


def _saddle(c: Certificate, spell: Spelling) -> str:
    left, enough = _left(c), c.point.tolerance
    if left > enough:
        return (
            f"Not converged: about {nats(left)} are left to gain (tolerance {enough:.2g}), and the curvature is negative in "
            f"some direction: a saddle, not a mode; raise {spell(_STEPS)}."
        )
    return (
        f"Not converged: the curvature is negative in some direction, along which {nats(c.point.along_curvature)} are gained: "
        f"a saddle, not a mode (tolerance {enough:.2g}); start from other weights, random ones and not all zero or equal, or "
        f"raise {spell(_STEPS)}."
    )


def _not_finite(c: Certificate, spell: Spelling) -> str:
    return (
        "Not a mode: the log-joint or its gradient is not a finite number where the search ended; standardise the data, or "
        f"lower {spell(_RATE)} and raise {spell(_STEPS)}."
    )


def _no_mode(found: NoMode, spell: Spelling) -> str:
    """Why there is no mode, and what to do."""
    tighter = "give the weights a tighter prior"
    match found.cause:
        case Cause.CONSTANT_TARGET:
            return (
                f"{found.name} runs to zero, since all targets are {found.target:g} and the density is unbounded there; check "
                f"the target column, or {_NOISE}"
            )
        case Cause.PERFECT_FIT:
            return (
                f"{found.name} ran to zero, where the network passes through every target and the density is unbounded; "
                f"{_NOISE}, {tighter}, or shrink the network"
            )
        case Cause.ROWS_WITHOUT_NOISE:
            return (
                "the noise of some rows ran to zero, where the network passes through their targets and these decide "
                f"everything; {tighter}, shrink the network, or take a noise of one size"
            )
        case Cause.ROWS_USED_UP:
            return (
                f"the noise collapsed: {found.weights:,.0f} well-determined weights use up the N = {found.num_data:,} rows, so "
                f"that none are left to estimate it and the density is nearly unbounded; {_NOISE}, {tighter}, shrink the "
                f"network, or take a posterior method such as {spell(_MEAN_FIELD)}"
            )
        case Cause.SEPARATED:
            return (
                f"every row is fitted with certainty, and the flat prior on {found.name} lets the weights grow without bound; "
                "give them a proper prior, for example Normal(1.0)"
            )


def _unusable(c: Certificate, spell: Spelling) -> str:
    return f"Not a usable mode: {_no_mode(c.no_mode, spell)}."


def _other_objective(c: Certificate, spell: Spelling) -> str:
    trained = c.training
    why = " and ".join(trained.layers) or "the network itself"
    said = f"Not certified: in training, {why} made the objective differ from evaluation; judge this fit by held-out rows."
    if trained.trend is None:
        return said
    change = f"changed by {trained.trend.rise:+.1f} nats (Monte Carlo error {trained.trend.error:.1f})"
    return f"{said} Over the last fifth of the steps the {trained.followed} {change}."


def _elbo_level(c: Certificate) -> str:
    trend = c.elbo.trend
    return f"Converged: the ELBO changed by {trend.rise:+.1f} nats (Monte Carlo error {trend.error:.1f}) over the last fifth"


def _elbo_rising(c: Certificate, spell: Spelling) -> str:
    trend = c.elbo.trend
    return (
        f"Not converged: the ELBO still rose by {trend.rise:.1f} nats (Monte Carlo error {trend.error:.1f}) over the last "
        f"fifth of the steps; raise {spell(_STEPS)}."
    )


def _elbo_slope(c: Certificate, spell: Spelling) -> str:
    left, enough = c.elbo.nats_to_gain, c.elbo.tolerance
    return (
        f"Not converged: a step along the ELBO's gradient would still gain about {left:.2g} nats (tolerance {enough:.2g}); "
        f"raise {spell(_STEPS)} or {spell(_RATE)}."
    )


def _closed_form(c: Certificate) -> str:
    condition, digits = c.closed_form.condition, c.closed_form.digits
    return f"closed form of the linear-Gaussian posterior; condition number {condition:.2g}, about {digits} digits hold"


def _rounded(c: Certificate, spell: Spelling) -> str:
    return (
        f"Not certified: {_closed_form(c)} in double precision, but rounding to {c.closed_form.dtype} moves the posterior by "
        f"{c.closed_form.rounding:.2g} sds; let the module be float64 (module.double()), or standardise the inputs."
    )


VERDICTS: dict[Finding, Callable[[Certificate, Spelling], str]] = {
    Finding.CONVERGED: _converged,
    Finding.CONVERGED_ON_KINK: _converged_at_kink,
    Finding.CONVERGED_BY_DUALITY: lambda c, spell: f"Converged to the mode: {_by_duality(c)}.",
    Finding.ELBO_LEVEL: lambda c, spell: f"{_elbo_level(c)}.",
    Finding.ELBO_MAXIMAL: lambda c, spell: f"{_elbo_level(c)}, and its gradient vanishes within Monte Carlo error.",
    Finding.EXACT: lambda c, spell: f"Exact: {_closed_form(c)}.",
    Finding.CHECK_PASSED: lambda c, spell: c.check.said,
    Finding.MIXED: lambda c, spell: chains.mixed(c.mixing),
    Finding.MIXED_IN_FUNCTION: lambda c, spell: chains.mixed_in_function(c.mixing),
    Finding.MIXED_IN_PREDICTION: lambda c, spell: chains.mixed_in_prediction(c.mixing),
    Finding.NOT_MIXED: lambda c, spell: chains.not_mixed(c.mixing, spell(Advice("num_samples"))),
    Finding.SEPARATE: lambda c, spell: chains.separate(c.mixing),
    Finding.DIVERGING: lambda c, spell: chains.diverging(c.mixing),
    Finding.FEW_DRAWS: lambda c, spell: chains.few(c.mixing, spell(Advice("num_samples"))),
    Finding.CUT_SHORT: lambda c, spell: chains.cut_short(c.mixing),
    Finding.NOT_CONVERGED: _not_converged,
    Finding.CLIMB_UNFINISHED: _climb_unfinished,
    Finding.GAP_OPEN: _gap_open,
    Finding.BELOW_START: _below_start,
    Finding.NOT_MOVED: lambda c, spell: (
        f"Not a mode: the fit did not leave its start; raise {spell(_RATE)} or {spell(_STEPS)}."
    ),
    Finding.NOT_FINITE: _not_finite,
    Finding.SADDLE: _saddle,
    Finding.UNBOUNDED: _unusable,
    Finding.NEARLY_UNBOUNDED: _unusable,
    Finding.OTHER_OBJECTIVE: _other_objective,
    Finding.NOT_LOOKED: _not_looked,
    Finding.UNCHECKED: lambda c, spell: "Not checked, as was asked: whether this is a mode is not known.",
    Finding.NOT_JUDGED: lambda c, spell: (
        f"Not certified: {c.failure.module} could not be judged ({c.failure.said}); judge this fit by held-out rows, or by "
        "whether more steps raise its objective."
    ),
    Finding.STOPPED_EARLY: lambda c, spell: (
        "Stopped early: the best point on held-out rows, which is no mode and need not be one; leave validation_fraction out "
        "for the mode."
    ),
    Finding.FAILED: lambda c, spell: f"Stopped: the last good point, after {c.failure.step:,} steps; {c.failure.said}",
    Finding.TOO_FEW_STEPS: lambda c, spell: (
        f"Not converged: {c.elbo.num_steps} steps are too few to tell; raise {spell(_STEPS)} to 1,000 or more."
    ),
    Finding.ELBO_RISING: _elbo_rising,
    Finding.ELBO_SLOPE: _elbo_slope,
    Finding.FEW_DIGITS: lambda c, spell: (
        f"Not certified: {_closed_form(c)}; centre or standardise the inputs (standardize=True), or drop collinear ones."
    ),
    Finding.ROUNDED: _rounded,
    Finding.CHECK_FAILED: lambda c, spell: c.check.said,
}

# a later verdict, told before the earlier one that it overrules
ADDED: dict[Finding, Callable[[Certificate], str]] = {
    Finding.COVARIANCE_LOOSE: lambda c: (
        f"Not certified: of the covariance about {c.covariance.digits} digits hold; standardise the inputs, or drop collinear "
        "ones."
    ),
    Finding.EVIDENCE_RISING: lambda c: "",  # likewise
    Finding.NOISE_VANISHING: lambda c: "",  # told at the end, with its numbers
}


# ── what else was found ──


def _restarts(found: Restarts) -> str:
    if found.count < 2:
        return ""
    if found.elbo:
        return _optima(found)
    if found.agree > 1:
        return f"{found.agree} of {found.count} restarts agree to {found.tolerance:.2g} nats."
    return f"It is the best of {found.count} restarts; no other came within {found.tolerance:.2g} nats."


def _optima(found: Restarts) -> str:
    count, near = found.count, f"{found.tolerance:.2g} nats"
    if found.spread <= found.tolerance:
        return f"The ELBOs of {count} restarts agree to {near}."
    apart = f"the ELBOs of {count} restarts lie {found.spread:.3g} nats apart"
    agree = (
        f"{found.agree} of them agree with the best to {near}" if found.agree > 1 else f"no other is within {near} of the best"
    )
    if found.unsettled:
        return f"T{apart[1:]}, and {found.unsettled} of them had not converged; {agree}."
    return f"Several optima: {apart}; {agree}."


def _lengths(found: Lengths) -> str:
    first, others = found.tensors[0], len(found.tensors) - 1
    names = f"{first.name} and {others} more are" if others else f"{first.name} is"
    what = f"{names} scale-invariant (a BatchNorm follows)"
    if found.held:
        return f"{what}: each output unit is held at norm 1."
    whose, them = (f"the norm of {first.name}", "them") if others else ("its norm", "it")
    return (
        f"{what}: {whose} went from {first.before:.3g} to {first.after:.3g}, which changes no prediction (but for ε); "
        f"scale_invariant='unit-norm' fixes {them}."
    )


def _alike(found: Alike) -> str:
    said = "It predicts the same for every row."
    if found.other_starts:
        said += (
            f" {found.other_starts} other starts, where the data weighed {found.weight} times as much at first, lead no higher."
        )
    if found.name:
        said += (
            f" Under the prior of {found.name}, {found.prior}, a layer's output has {found.gain:.2g} times the size of its "
            "input; for weights that differ from zero take a wider one, for example Normal(1.0, fan_in=True)."
        )
    return said


def _vanishing(found: VanishingNoise) -> str:
    flat = found.target is not None
    why = f"all targets are {found.target:g}" if flat else "the network passes through every target"
    return (
        f"{found.name} is {found.ratio:.2g} of the target's {'size' if flat else 'sd'} and runs to zero, since {why}; check "
        "the target column, fix the noise scale, or give it a prior that keeps it from zero (LogNormal)."
    )


# ── numbers ──


def numbers(certificate: Certificate) -> dict[str, float | str]:
    """A certificate's known numbers under plain names, for reports and their JSON; in nats unless said otherwise."""
    c = certificate
    found: dict[str, float | str | None] = {}
    if c.point is not None:
        p = c.point
        found |= {"log joint": p.log_joint, "tolerance": p.tolerance, "space": p.space, "duality gap": p.duality_gap}
        found |= {"nats climbed": p.climbed, "nats to gain": p.nats_to_gain}
        found[f"largest {'KKT violation' if p.nonsmooth else 'gradient'} in posterior sds"] = p.violation
        found |= {"curvature from": None if p.source is None else str(p.source), "smallest eigenvalue": p.smallest_eigenvalue}
        found |= {"nats gained along it": p.along_curvature, "nats gained by more steps": p.by_further_search}
        found |= {"nats gained by a few steps": p.by_few_steps, "rows of those steps": p.looked_rows}
    if c.no_mode is not None:
        why = _no_mode(c.no_mode, in_python)
        found |= {"no mode": why, "unbounded": why if c.no_mode.arrived else None}
    if c.training is not None and (trend := c.training.trend) is not None:
        found |= {c.training.followed.value: trend.level, "rise": trend.rise, "Monte Carlo error": trend.error}
    if c.elbo is not None and (trend := c.elbo.trend) is not None:
        found |= {"elbo": trend.level, "rise": trend.rise, "Monte Carlo error": trend.error}
        found |= {"nats to gain": c.elbo.nats_to_gain, "nats to gain, Monte Carlo error": c.elbo.error}
        found |= {} if c.elbo.collapsible is None else {"weights whose posterior is their prior": float(c.elbo.collapsed)}
        found |= {} if c.elbo.units is None else {"hidden units whose posterior is their prior": float(c.elbo.idle_units)}
    if (form := c.closed_form) is not None:
        found |= {"condition number": form.condition, "digits": form.digits, "rounding in sds": form.rounding}
    if c.check is not None:
        found |= c.check.numbers
    if (starts := c.restarts) is not None:
        found |= {"restarts": float(starts.count), "restarts that agree": float(starts.agree)}
        found["spread over restarts"] = starts.spread
    if c.lengths is not None:
        found |= {f"norm of {one.name}": f"{one.before:.3g} -> {one.after:.3g}" for one in c.lengths.tensors}
    if c.alike is not None:
        found |= {"predicts the same for every row": 1.0, "other starts": float(c.alike.other_starts)}
    found |= approximations.numbers(c.covariance, c.importance, c.tuned)
    if c.noise is not None:
        found["noise ratio"] = c.noise.ratio
    if c.mixing is not None:
        found |= chains.numbers(c.mixing)
    return {name: value for name, value in found.items() if value is not None}
