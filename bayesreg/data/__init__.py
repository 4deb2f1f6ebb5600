"""Input data: rows, tables, their statistics, and the data sets that ship with the package."""

from bayesreg.data.datasets import Split, Table, load_breast_cancer, load_diabetes, load_uci, read_table
from bayesreg.data.rows import Data, Standardization, as_tensor

__all__ = [
    "Data",
    "Split",
    "Standardization",
    "Table",
    "as_tensor",
    "load_breast_cancer",
    "load_diabetes",
    "load_uci",
    "read_table",
]
