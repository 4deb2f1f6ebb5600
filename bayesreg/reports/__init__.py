"""Reports: one self-contained page on the assumptions, the results and what a mode hid."""

from bayesreg.reports import sections as sections
from bayesreg.reports.base import AbstractSection as AbstractSection
from bayesreg.reports.base import Card as Card
from bayesreg.reports.base import Material as Material
from bayesreg.reports.chance import AHEAD as AHEAD
from bayesreg.reports.chance import CALIBRATION as CALIBRATION
from bayesreg.reports.chance import adjusted as adjusted
from bayesreg.reports.chance import binomial_tails as binomial_tails
from bayesreg.reports.chance import ranked as ranked
from bayesreg.reports.judged import confidence as confidence
from bayesreg.reports.judged import confidences as confidences
from bayesreg.reports.judged import findings as findings
from bayesreg.reports.page import Report, report
from bayesreg.reports.scatter import scatter_card as scatter_card
from bayesreg.reports.sections.calibration import calibration_card as calibration_card
from bayesreg.reports.sections.calibration import confidence_card as confidence_card
from bayesreg.reports.sections.calibration import coverage_card as coverage_card
from bayesreg.reports.sections.calibration import pit_finding as pit_finding
from bayesreg.reports.sections.comparison import best_card as best_card
from bayesreg.reports.sections.comparison import comparison_table as comparison_table
from bayesreg.reports.sections.comparison import leads as leads
from bayesreg.reports.sections.convergence import convergence_card as convergence_card
from bayesreg.reports.sections.convergence import noise_facts as noise_facts
from bayesreg.reports.sections.parameters import pair_facts as pair_facts
from bayesreg.reports.sections.parameters import prior_std as prior_std
from bayesreg.reports.sections.parameters import same_model as same_model
from bayesreg.reports.sections.uncertainty import epistemic_card as epistemic_card
from bayesreg.reports.sections.uncertainty import epistemic_shares as epistemic_shares
from bayesreg.reports.sections.uncertainty import noise_card as noise_card
from bayesreg.reports.sections.uncertainty import noise_scale as noise_scale
from bayesreg.reports.sections.uncertainty import uncertainty_facts as uncertainty_facts
from bayesreg.reports.sections.worst import inputs_of as inputs_of
from bayesreg.reports.sections.worst import row_names as row_names
from bayesreg.reports.sections.worst import worst_rows as worst_rows
from bayesreg.reports.svg import THEME as THEME
from bayesreg.reports.svg import inline as inline

__all__ = ["Report", "report"]
