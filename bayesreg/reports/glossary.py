"""What the report's words and metrics mean, for a reader who has not met them."""

from __future__ import annotations

READS: dict[str, str] = {
    "mlpd": "mean log probability (density) given to what happened, in nats a row; the one score that sees everything.",
    "difference": "log density summed over the rows, minus that of the best, ± its standard error, paired by row; the verdict "
    "says where it may be chance.",
    "rmse": "root mean squared error of the predicted mean, in target units; says nothing about the intervals.",
    "crps": "a distance between the predicted distribution and what happened, in target units; for a prediction without any "
    "spread it is the absolute error.",
    "mean_width": "mean width of the 95 % intervals, in target units; narrow is good only where the coverage is right.",
    "coverage_95": "share of the truths inside the 95 % intervals; right at 95 %, too narrow below, too wide above.",
    "accuracy": "share of the rows whose most probable class was the observed one.",
    "brier": "mean squared distance between the stated probabilities and what happened.",
    "ece": "mean gap between stated probability and observed share, in 15 bins; chance alone makes it larger than zero.",
}

GLOSSARY: dict[str, str] = {
    "Posterior": "what is known about every unknown after the data: a distribution. A regularised fit is its highest "
    "point, the mode.",
    "Prior": "what was assumed before the data. A penalty of the loss is a prior: −log prior = penalty, in nats.",
    "Nat": "the unit of log probability with the natural logarithm. One nat more: the data were e ≈ 2.7 times as probable.",
    "Aleatoric": "the part of a prediction's variance that is noise; more data would not remove it.",
    "Epistemic": "the part that is not knowing the function; more data near a row would shrink it. A mode has none, "
    "by construction.",
    "Coverage": "how often intervals of a stated level held the truth. With few rows the count itself is uncertain: "
    "the 95 % CI (Wilson) says by how much.",
    "PIT": "probability integral transform, where the truth fell inside its own predictive distribution, from lowest to "
    "highest; evenly spread when the predictive is calibrated.",
    "Chance": "what the verdict rules out before it speaks. It says something wrong of calibrated predictions, over all that "
    "it says together, on at most one test set in twenty; an error of the function, which their rows share, is chance too.",
    "Calibrated": "of all statements made with 80 % confidence, 80 % come true.",
    "Calibration error": "mean distance between nominal and observed coverage over 19 levels. It is never zero: calibrated "
    "predictions give about 0.3/√n by chance, with n values.",
    "Standard error, paired": "how far a difference in score would move with another test set of this size. Both are scored "
    "on the same rows, so what makes a row hard cancels.",
    "Log evidence": "log p(training targets | model), in nats: how probable the model and its prior made the data before "
    "seeing them. It compares models on the same targets.",
    "ELBO": "a lower bound on the log evidence, which variational methods raise. Its distance from the evidence is not known.",
    "Certificate": "a method's check of its own fit: a vanishing gradient for a mode, an ELBO that stopped rising.",
    "Constrained space": "a mode depends on the coordinates: in “constrained” ones a positive unknown is itself, in "
    "“unconstrained” ones its logarithm. A Laplace approximation needs the second.",
}
