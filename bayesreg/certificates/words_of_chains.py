"""The part of a certificate's words that is about Markov chains."""

from __future__ import annotations

from bayesreg.certificates.values import Agreement, Mixing, Predictions


def mixed(m: Mixing) -> str:
    """Chains agree, with draws enough."""
    return f"Converged: {_run(m)} agree; {_agreement(m.weights, 'unknowns')}.{_health(m)}"


def mixed_in_function(m: Mixing) -> str:
    """They agree on predictions only."""
    return (
        f"Converged in function space, not in weights: {_run(m)} agree on predictions; "
        f"{_agreement(m.function, 'outputs in training rows')}. Single weights have symmetric or separate modes "
        f"(R̂ {m.weights.rhat:.3g}): read predictions, not weights.{_health(m)}"  # pyright: ignore[reportOptionalMemberAccess]
    )


def not_mixed(m: Mixing, more: str) -> str:
    """They do not agree."""
    parts = [_agreement(m.weights, "unknowns")]
    if m.function is not None:
        parts.append(_agreement(m.function, "outputs in training rows"))
    return f"Not converged: {_run(m)} do not agree; {'; '.join(parts)}; raise {more} or num_warmup.{_health(m)}"


def mixed_in_prediction(m: Mixing) -> str:
    """Members of an ensemble that predict the same."""
    return (
        f"Converged in prediction, not in weights: {_run(m)} predict the same, {_of_y(m.predictions)}. {_UNITS}"  # pyright: ignore
        f"{_of_function(m)}{_health(m)}"
    )


def separate(m: Mixing) -> str:
    """Members of an ensemble, each in a region of its own."""
    found = "" if m.predictions is None else f" that predicts otherwise, {_of_y(m.predictions)}"
    return (
        f"Not certified: each of {_run(m)} stays in a region of its own{found}, so that the answer is their mixture with equal "
        f"weights; raise num_warmup, or num_members, and judge it by held-out rows. {_UNITS}{_of_function(m)}{_health(m)}"
    )


_UNITS = "Weights were not compared: hidden units may change places, and each member has an order of its own."


def _of_y(found: Predictions) -> str:
    return (
        f"noise included: of {found.count:,} means of y in training rows R̂ is at most {found.rhat:.3f} (bound 1.1), the Monte "
        f"Carlo error {found.error:.2g} sds of y (bound 0.14), and these changed by {found.drift:.2g} of themselves along the "
        "chains (bound 0.1)"
    )


def _of_function(m: Mixing) -> str:
    """How far the function alone is known."""
    return "" if m.function is None else f" Of the function without noise R̂ is up to {m.function.rhat:.3g}."


def diverging(m: Mixing) -> str:
    """Steps left the level of the density."""
    parts = [_agreement(m.weights, "unknowns")] if m.weights is not None else []
    return (
        f"Not converged: {m.divergences:,} diverging steps, so that a narrow part of the posterior is missed; raise "
        f"target_acceptance, or give unknown scales non-centred weights{''.join(f'; {part}' for part in parts)}."
    )


def few(m: Mixing, more: str) -> str:
    """Too few draws to be judged."""
    return f"Not certified: {_run(m)} are too few draws to be judged; raise {more}."


def cut_short(m: Mixing) -> str:
    """A run that was stopped."""
    return f"Not certified: stopped by the user after {m.steps:,} of {m.planned:,} steps, with {_run(m)}."


def tempered(m: Mixing) -> str:
    """The temperature, where it is not 1."""
    if m.temperature == 1.0:
        return ""
    kind = "cold" if m.temperature < 1 else "warm"
    return (
        f"Temperature {m.temperature:g}: draws of the posterior density to the power 1/{m.temperature:g}, a {kind} posterior."
    )


def numbers(m: Mixing) -> dict[str, float | str | None]:
    """A run's numbers under plain names."""
    found: dict[str, float | str | None] = {"chains": float(m.num_chains), "draws of each chain": float(m.num_draws)}
    for whose, which in (("unknowns", m.weights), ("outputs", m.function)):
        if which is not None:
            found |= {f"largest R̂ of {whose}": which.rhat, f"smallest bulk ESS of {whose}": which.ess_bulk}
            found |= {f"smallest tail ESS of {whose}": which.ess_tail}
            found[f"largest Monte Carlo error of a mean of {whose}, in sds"] = which.error
    if m.predictions is not None:
        found |= {
            "largest R̂ of y": m.predictions.rhat,
            "largest Monte Carlo error of E[y | x], in sds of y": m.predictions.error,
        }
        found["largest change of y's sd along the chains"] = m.predictions.drift
    found |= {"diverging steps": None if m.divergences is None else float(m.divergences), "acceptance": m.acceptance}
    found |= {"smallest BFMI": m.bfmi, "energy error by dimension": m.energy_error}
    found |= {"sd of outputs within chains": m.within, "sd of outputs between chains": m.between}
    return found | {"temperature": m.temperature}


def _run(m: Mixing) -> str:
    chains = "1 chain" if m.num_chains == 1 else f"{m.num_chains:,} chains"
    return f"{chains} of {m.num_draws:,} draw{'s' if m.num_draws > 1 else ''}"


def _agreement(found: Agreement | None, what: str) -> str:
    if found is None:
        return f"{what}: not judged"
    return (
        f"of {found.count:,} {what} the largest R̂ is {found.rhat:.3f}, the smallest ESS {found.ess_bulk:,.0f} (bulk) and "
        f"{found.ess_tail:,.0f} (tail)"
    )


def _health(m: Mixing) -> str:
    said = []
    if m.divergences:
        said.append(f"{m.divergences:,} diverging steps")
    if m.acceptance is not None:
        said.append(f"acceptance {m.acceptance:.2f}")
    if m.bfmi is not None and m.bfmi < 0.3:
        said.append(f"BFMI {m.bfmi:.2f}, below 0.3: heavy tails")
    if m.energy_error is not None:
        said.append(f"energy error by dimension {m.energy_error:.2g}")
    if m.between is not None and m.within is not None:
        said.append(f"outputs' sd {m.within:.2g} within and {m.between:.2g} between chains")
    return f" {', '.join(said).capitalize()}." if said else ""
