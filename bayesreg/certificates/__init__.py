"""Why an answer can be believed."""

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.collapse import used_up
from bayesreg.certificates.mode import certify
from bayesreg.certificates.optimality import measure

__all__ = ["Certificate", "certify", "measure", "used_up"]
