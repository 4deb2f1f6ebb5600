"""Input data: rows, tables, their statistics, and the data sets that ship with the package."""

from bayesreg.data.columns import Column, Columns, TableError, columns_of
from bayesreg.data.datasets import Split, Table, load_breast_cancer, load_diabetes, load_uci, read_table
from bayesreg.data.encoder import Encoder
from bayesreg.data.rows import Data, Standardization, as_tensor

__all__ = [
    "Column",
    "Columns",
    "Data",
    "Encoder",
    "Split",
    "Standardization",
    "Table",
    "TableError",
    "as_tensor",
    "columns_of",
    "load_breast_cancer",
    "load_diabetes",
    "load_uci",
    "read_table",
]
