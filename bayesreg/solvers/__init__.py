"""Ways to a mode: each takes a problem, a log-joint and its rows, and finds where the log-joint is highest."""

from bayesreg import _catalog
from bayesreg.objective.affine import affine_problem as affine_problem
from bayesreg.solvers.averaged import Averaged
from bayesreg.solvers.base import AbstractSolver, Problem, Solution, Unsuited
from bayesreg.solvers.batched import Stepper, descend, fit_many, row_batches, search_many
from bayesreg.solvers.batched_early import fit_many_early
from bayesreg.solvers.batched_whitened import settle_many
from bayesreg.solvers.batches import resolve_batch
from bayesreg.solvers.choice import known_solvers, searched
from bayesreg.solvers.columns import Columns
from bayesreg.solvers.compiled import SMALL, CompiledAdam
from bayesreg.solvers.coordinate_descent import lasso
from bayesreg.solvers.early_stopping import hold_out
from bayesreg.solvers.evidence_ascent import GaussNewton
from bayesreg.solvers.evidence_scales import Evidence, Scales
from bayesreg.solvers.evidence_training import highest
from bayesreg.solvers.failures import FitError, keeping, rescuing
from bayesreg.solvers.groupwise import Groups, group_lasso
from bayesreg.solvers.history import History
from bayesreg.solvers.ivon import EagerIvon, SettledByIvon
from bayesreg.solvers.krylov import Krylov, conjugate_gradients
from bayesreg.solvers.least_squares import Elimination, Undetermined, ridge
from bayesreg.solvers.linear_gaussian import LinearGaussian, solve, solve_path
from bayesreg.solvers.loop import Follow, run
from bayesreg.solvers.nonsmooth import Fista, polish
from bayesreg.solvers.options import SearchOptions
from bayesreg.solvers.primal_dual import PrimalDual
from bayesreg.solvers.probe import further
from bayesreg.solvers.progress import ProgressCallback, unheard
from bayesreg.solvers.quasi_newton import Lbfgs
from bayesreg.solvers.raced import Raced as Raced
from bayesreg.solvers.restarts import starts
from bayesreg.solvers.schedules import Schedule, Settling, UntilFlat
from bayesreg.solvers.stepper import AbstractStepper, EagerAdam
from bayesreg.solvers.stepwise import Adam, ProximalAdam
from bayesreg.solvers.whitened import can_settle, settle

__all__ = [
    "SMALL",
    "AbstractSolver",
    "AbstractStepper",
    "Adam",
    "Averaged",
    "Columns",
    "CompiledAdam",
    "EagerAdam",
    "EagerIvon",
    "Elimination",
    "Evidence",
    "Fista",
    "FitError",
    "Follow",
    "GaussNewton",
    "Groups",
    "History",
    "Krylov",
    "Lbfgs",
    "LinearGaussian",
    "PrimalDual",
    "Problem",
    "ProgressCallback",
    "ProximalAdam",
    "Scales",
    "Schedule",
    "SearchOptions",
    "SettledByIvon",
    "Settling",
    "Solution",
    "Stepper",
    "Undetermined",
    "Unsuited",
    "UntilFlat",
    "can_settle",
    "conjugate_gradients",
    "descend",
    "fit_many",
    "fit_many_early",
    "further",
    "group_lasso",
    "highest",
    "hold_out",
    "keeping",
    "known_solvers",
    "lasso",
    "polish",
    "rescuing",
    "resolve_batch",
    "ridge",
    "row_batches",
    "run",
    "search_many",
    "searched",
    "settle",
    "settle_many",
    "solve",
    "solve_path",
    "starts",
    "unheard",
]

_catalog.load_files(__name__, __path__)
