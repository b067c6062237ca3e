"""Files of known vulnerabilities: OSV (one, a list, lines, or a zip of them) and CSAF 2.0."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from gpufleet.spec.advisories import CsafDocument, OsvEntry
from gpufleet.spec.errors import BadInput

MAX_BYTES: Final = 512 * 2**20
MAX_ZIPPED_BYTES: Final = 4 * 2**30
"""Of all members of a zip together, which are read one after the other."""
MAX_MEMBER_BYTES: Final = 64 * 2**20
_CSAF_VERSION: Final = "2.0"


def read_advisories(file: Path) -> Iterator[OsvEntry | CsafDocument]:
    """Every advisory of a file.

    Raises:
        BadInput: with file and place, where it cannot be read or is neither OSV nor CSAF 2.0.
    """
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise BadInput("is no file", where=str(file))
        if size > MAX_BYTES:
            raise BadInput(f"is larger than {MAX_BYTES // 2**20} MiB", where=str(file))
        if zipfile.is_zipfile(file):
            yield from _zipped(file)
        else:
            yield from _texts(_decoded(file.read_bytes(), str(file)), str(file))
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror or error}", where=str(file)) from None


def _zipped(file: Path) -> Iterator[OsvEntry | CsafDocument]:
    try:
        with zipfile.ZipFile(file) as archive:
            members = [each for each in archive.infolist() if each.filename.endswith(".json")]
            if not members:
                raise BadInput("holds no .json file", where=str(file))
            if sum(each.file_size for each in members) > MAX_ZIPPED_BYTES:
                raise BadInput(f"holds more than {MAX_ZIPPED_BYTES // 2**30} GiB", where=str(file))
            for member in members:
                place = f"{file}!{member.filename}"
                with archive.open(member) as opened:
                    # A member may be larger than it says.
                    content = opened.read(MAX_MEMBER_BYTES + 1)
                if len(content) > MAX_MEMBER_BYTES:
                    what = f"is larger than {MAX_MEMBER_BYTES // 2**20} MiB"
                    raise BadInput(what, where=place)
                yield from _texts(_decoded(content, place), place)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise BadInput(f"is a broken zip file: {error}", where=str(file)) from None


def _decoded(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInput("is not UTF-8 text", where=f"{place}:{line}") from None


def _texts(text: str, place: str) -> Iterator[OsvEntry | CsafDocument]:
    """One JSON text, or one in each line."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise BadInput("is empty", where=place)
    if len(lines) > 1 and _is_json(lines[0][1]) and _is_json(lines[1][1]):
        for number, line in lines:
            yield from _advisories(_parsed(line, place, number), f"{place}:{number}")
    else:
        yield from _advisories(_parsed(text, place), place)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _parsed(text: str, place: str, first_line: int = 1) -> Any:  # noqa: ANN401 - plain JSON
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        where = f"{place}:{line}:{error.colno}"
        raise BadInput(f"is not JSON: {error.msg[0].lower()}{error.msg[1:]}", where=where) from None
    except RecursionError:
        raise BadInput("is nested too deeply", where=place) from None


def _advisories(data: Any, place: str) -> Iterator[OsvEntry | CsafDocument]:  # noqa: ANN401
    if isinstance(data, list):
        for index, each in enumerate(data):
            yield from _advisories_of(each, place, f"[{index}]")
    elif isinstance(data, dict) and isinstance(data.get("vulns"), list):
        # What an OSV server answers.
        for index, each in enumerate(data["vulns"]):
            yield from _advisories_of(each, place, f"vulns[{index}]")
    else:
        yield from _advisories_of(data, place, "")


def _advisories_of(data: Any, place: str, at: str) -> Iterator[OsvEntry | CsafDocument]:  # noqa: ANN401
    where = f"{place}: {at}" if at else place
    if not isinstance(data, dict):
        raise BadInput("is neither an OSV entry nor a CSAF document", where=where)
    if isinstance(data.get("document"), dict):
        document: CsafDocument = _checked(CsafDocument, data, place, at)
        if document.document.csaf_version != _CSAF_VERSION:
            told = f"{document.document.csaf_version:.20}"
            raise BadInput(f"is CSAF {told}, and {_CSAF_VERSION} is read", where=where)
        yield document
    elif "id" in data or "affected" in data or "modified" in data:
        yield _checked(OsvEntry, data, place, at)
    else:
        raise BadInput("is neither an OSV entry nor a CSAF document", where=where)


def _checked(model: Any, data: Any, place: str, at: str) -> Any:  # noqa: ANN401 - of either format
    assert issubclass(model, BaseModel)  # noqa: S101 - for the type checker
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = at
        for part in first["loc"]:
            path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
        said = "is missing" if first["type"] == "missing" else first["msg"]
        what = f"{said[0].lower()}{said[1:]}"
        raise BadInput(what, where=f"{place}: {path}") from None
