"""CSV files of declared columns, read line by line into models; lines of `#` are remarks."""

import csv
from collections.abc import Iterator
from typing import TypeVar

from pydantic import ValidationError

from gpufleet.spec.errors import BadInput
from gpufleet.spec.quantities import Spec

Row = TypeVar("Row", bound=Spec)


def read_rows(text: str, source: str, model: type[Row]) -> Iterator[tuple[str, Row]]:
    """Each line as a model, with its place (`FILE:LINE`) for errors about it.

    Columns that the model does not know are left out; an empty value counts as not given.

    Args:
        text: of the file; its first line that is no remark names the columns.
        source: its name in errors.
        model: what a line is.

    Raises:
        BadInput: with the line, the column and what is wrong.
    """
    numbered = [
        (number, line)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.startswith("#")
    ]
    reader = csv.DictReader([line for _, line in numbered], strict=True)
    try:
        columns = reader.fieldnames or ()
        needed = [name for name, field in model.model_fields.items() if field.is_required()]
        if missing := [name for name in needed if name not in columns]:
            place = f"{source}:{numbered[0][0] if numbered else 1}"
            raise BadInput(f"has no column `{missing[0]}`", where=place)
        for row in reader:
            place = f"{source}:{numbered[min(reader.line_num, len(numbered)) - 1][0]}"
            yield place, _model(row, place, model)
    except csv.Error as error:
        raise BadInput(f"is not CSV: {error}", where=source) from None


def _model(row: dict[str, str], place: str, model: type[Row]) -> Row:
    if None in row:
        raise BadInput("has more values than there are columns", where=place)
    given = {key: value for key, value in row.items() if value and key in model.model_fields}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        column = f": {first['loc'][0]}" if first["loc"] else ""
        if first["type"] == "missing":
            raise BadInput("is missing", where=f"{place}{column}") from None
        said = first["msg"].removeprefix("Value error, ")
        value = f"`{first['input']!s:.40}`: " if first["loc"] else ""
        raise BadInput(f"{value}{said[0].lower()}{said[1:]}", where=f"{place}{column}") from None
