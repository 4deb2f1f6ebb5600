"""One self-contained page on what was assumed, what was found and what a mode hid."""

from bayesreg.reports.ahead import leads as leads
from bayesreg.reports.calibration import confidence as confidence
from bayesreg.reports.calibration import confidences as confidences
from bayesreg.reports.calibration import findings as findings
from bayesreg.reports.calibration import pit_finding as pit_finding
from bayesreg.reports.cards import best_card as best_card
from bayesreg.reports.cards import calibration_card as calibration_card
from bayesreg.reports.cards import confidence_card as confidence_card
from bayesreg.reports.cards import convergence_card as convergence_card
from bayesreg.reports.cards import coverage_card as coverage_card
from bayesreg.reports.cards import epistemic_card as epistemic_card
from bayesreg.reports.cards import noise_card as noise_card
from bayesreg.reports.chance import AHEAD as AHEAD
from bayesreg.reports.chance import CALIBRATION as CALIBRATION
from bayesreg.reports.chance import adjusted as adjusted
from bayesreg.reports.chance import binomial_tails as binomial_tails
from bayesreg.reports.chance import ranked as ranked
from bayesreg.reports.noise import noise_facts as noise_facts
from bayesreg.reports.noise_size import noise_scale as noise_scale
from bayesreg.reports.page import Report, report
from bayesreg.reports.page import comparison_table as comparison_table
from bayesreg.reports.pairs import pair_facts as pair_facts
from bayesreg.reports.pairs import prior_std as prior_std
from bayesreg.reports.pairs import same_model as same_model
from bayesreg.reports.rows import epistemic_shares as epistemic_shares
from bayesreg.reports.rows import inputs_of as inputs_of
from bayesreg.reports.rows import row_names as row_names
from bayesreg.reports.rows import uncertainty_facts as uncertainty_facts
from bayesreg.reports.rows import worst_rows as worst_rows
from bayesreg.reports.svg import THEME as THEME
from bayesreg.reports.svg import inline as inline

__all__ = ["Report", "report"]
