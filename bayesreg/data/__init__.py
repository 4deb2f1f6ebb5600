"""Input data: rows, tables, their statistics, and the data sets that ship with the package."""

from bayesreg.data.cells import Writing
from bayesreg.data.columns import Column, Columns, TableError, columns_of
from bayesreg.data.datasets import load_breast_cancer, load_diabetes, load_uci
from bayesreg.data.delimited import Layout
from bayesreg.data.encoder import Encoder
from bayesreg.data.files import File, Reading, read_file, stream_file
from bayesreg.data.rows import Data, Standardization, as_tensor
from bayesreg.data.splits import random_rows
from bayesreg.data.tables import Prepared, Split, Table, Wanted, prepare, read_table

__all__ = [
    "Column",
    "Columns",
    "Data",
    "Encoder",
    "File",
    "Layout",
    "Prepared",
    "Reading",
    "Split",
    "Standardization",
    "Table",
    "TableError",
    "Wanted",
    "Writing",
    "as_tensor",
    "columns_of",
    "load_breast_cancer",
    "load_diabetes",
    "load_uci",
    "prepare",
    "random_rows",
    "read_file",
    "read_table",
    "stream_file",
]
