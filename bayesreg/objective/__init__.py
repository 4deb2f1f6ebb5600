"""The flat log-joint for one fit or many at once; its gradients, its curvature, and whole passes over the rows."""

from bayesreg.objective.affine import affine_problem
from bayesreg.objective.batched import Replicas, check_replicable
from bayesreg.objective.batched_buffers import ReplicaBuffers
from bayesreg.objective.chains import AbstractChains, Chains, ChainsOfBatches, MappedChains
from bayesreg.objective.conditioning import Products, Root, Rows, entries
from bayesreg.objective.curvature import full_hessian, gauss_newton, output_jacobian, prior_curvature
from bayesreg.objective.curvature_products import diagonal, ends, gauss_newton_product, hessian_product, sample
from bayesreg.objective.directions import HeldLogJoint, along_sphere, by_all_rows, on_sphere, scale_free
from bayesreg.objective.evidence import updates
from bayesreg.objective.factors import KroneckerFactor
from bayesreg.objective.flat import FlatLayout, LogJoint
from bayesreg.objective.inverse import InverseProblem, LowRank, inverse_problem, low_rank
from bayesreg.objective.layerwise import layers_of
from bayesreg.objective.local_draws import LocalDraws
from bayesreg.objective.local_draws import PairedNoise as PairedNoise
from bayesreg.objective.structures import kronecker_blocks, likelihood_diagonal, root_of
from bayesreg.objective.subset import Subset, likelihood_curvature
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.objective.whole import gradient_of, in_double

__all__ = [
    "AbstractChains",
    "Chains",
    "ChainsOfBatches",
    "FlatLayout",
    "HeldLogJoint",
    "InverseProblem",
    "KroneckerFactor",
    "LocalDraws",
    "LogJoint",
    "LowRank",
    "MappedChains",
    "Products",
    "ReplicaBuffers",
    "Replicas",
    "Root",
    "Rows",
    "Subset",
    "TrainingCopy",
    "affine_problem",
    "along_sphere",
    "by_all_rows",
    "check_replicable",
    "diagonal",
    "ends",
    "entries",
    "full_hessian",
    "gauss_newton",
    "gauss_newton_product",
    "gradient_of",
    "hessian_product",
    "in_double",
    "inverse_problem",
    "kronecker_blocks",
    "layers_of",
    "likelihood_curvature",
    "likelihood_diagonal",
    "low_rank",
    "on_sphere",
    "output_jacobian",
    "prior_curvature",
    "root_of",
    "sample",
    "scale_free",
    "updates",
]
