"""Ways to a mode: each takes a log-joint and rows, and finds where the log-joint is highest."""

from bayesreg.solvers.batched import Stepper, descend, fit_many, row_batches, search_many
from bayesreg.solvers.columns import Columns
from bayesreg.solvers.coordinate_descent import lasso
from bayesreg.solvers.groupwise import Groups, group_lasso, working_sets
from bayesreg.solvers.history import History
from bayesreg.solvers.least_squares import Elimination, Undetermined, ridge
from bayesreg.solvers.linear_gaussian import affine_problem, fit_linear, solve, solve_path
from bayesreg.solvers.loop import FitError, Schedule, run
from bayesreg.solvers.nonsmooth import polish
from bayesreg.solvers.quasi_newton import lbfgs, newton
from bayesreg.solvers.restarts import starts
from bayesreg.solvers.search import Search
from bayesreg.solvers.stepper import SMALL, AbstractStepper, CompiledAdam, EagerAdam

__all__ = [
    "SMALL",
    "AbstractStepper",
    "Columns",
    "CompiledAdam",
    "EagerAdam",
    "Elimination",
    "FitError",
    "Groups",
    "History",
    "Schedule",
    "Search",
    "Stepper",
    "Undetermined",
    "affine_problem",
    "descend",
    "fit_linear",
    "fit_many",
    "group_lasso",
    "lasso",
    "lbfgs",
    "newton",
    "polish",
    "ridge",
    "row_batches",
    "run",
    "search_many",
    "solve",
    "solve_path",
    "starts",
    "working_sets",
]
