"""λ ⇔ prior: one penalty under the names that other tools have for it."""

from bayesreg.dictionary.names import dropout_decay, equivalents

__all__ = ["dropout_decay", "equivalents"]
