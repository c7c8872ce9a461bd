"""Tables between stages: the bytes that are written, the types that are read, and the line of what is wrong."""

import csv

import numpy as np
import pandas as pd
import pytest

from nightshift.console.errors import UserError
from nightshift.core.tables import read_table, write_table

ODD = ["NA", "", "null", 'a,"b"', "x\ny", "0012", "nan", "é"]


def test_texts_come_back_as_they_were_and_numbers_typed(tmp_path):
    path = tmp_path / "table.csv"
    table = pd.DataFrame({"seed": range(8), "name": ODD, "angle": [np.nan, *np.linspace(-1, 1, 7)], "dice": 1 / 3})
    write_table(path, table)
    read = read_table(path, integers=("seed",), numbers=("dice",), texts=("name",), empty=("angle",), optional=("mm",))
    assert read["name"].to_list() == ODD
    assert (read["seed"].dtype, read["dice"].dtype, read["angle"].dtype) == (np.int64, np.float64, np.float64)
    assert np.isnan(read["angle"][0]) and read["angle"][1] == -1 and (read["dice"] == 0.333333).all()


def test_the_bytes_are_those_of_the_csv_module(tmp_path):
    rows = [{"seed": i, "name": name, "dice": i / 7, "none": ""} for i, name in enumerate(ODD)]
    write_table(tmp_path / "ours.csv", pd.DataFrame(rows))
    with (tmp_path / "theirs.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"dice": f"{row['dice']:.6f}"} for row in rows)
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("seed,dice\n", "no rows"),
        ("seed,rice\n0,1\n", "no column 'dice'"),
        ("seed,dice\n0,1\n1,\n", "line 3: dice is not a finite number"),
        ("seed,dice\n0,inf\n", "line 2: dice is not a finite number"),
        ("seed,dice\n0,nan\n", "line 2: dice is not a finite number"),
        ("seed,dice\n0.5,1\n", "line 2: seed is not a whole number"),
        ('seed,dice\n"0,1\n', "not readable as a UTF-8 CSV"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"table.csv: {message}.*; `dvc repro` makes it anew"):
        read_table(path, integers=("seed",), numbers=("dice",))


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"table\.csv: no such file yet; `dvc repro` makes it"):
        read_table(tmp_path / "table.csv")
