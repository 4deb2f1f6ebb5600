"""Network × priors × likelihood: the rules that declare a model, its unknowns, and the model itself."""

from bayesreg.model.defaults import default_model as default_model
from bayesreg.model.defaults import hidden_units as hidden_units
from bayesreg.model.defaults import network_note as network_note
from bayesreg.model.model import BayesianModel
from bayesreg.model.prior_table import PriorRow, PriorTable
from bayesreg.model.rescaled import with_known_noise as with_known_noise
from bayesreg.model.rescaled import with_scales as with_scales
from bayesreg.model.spec import PriorSpec

__all__ = ["BayesianModel", "PriorRow", "PriorSpec", "PriorTable"]
