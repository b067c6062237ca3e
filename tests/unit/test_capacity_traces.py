"""Trace files: what is read, and what is refused with the place where it stands."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from gpufleet.edges.trace_files import read_trace
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec.errors import EXIT_BAD_INPUT, BadInput

HEAD = "arrival_s,prompt_tokens,output_tokens\n"
DATA = PROJECT_ROOT.parent / "shared" / "data"


def written(folder: Path, text: str) -> Path:
    file = folder / "trace.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_trace_is_read_plain_or_gzipped_with_columns_in_any_order(tmp_path: Path) -> None:
    text = "model,output_tokens,arrival_s,prompt_tokens\nx,3,0,5\ny,4,1.5,6\n"
    plain = written(tmp_path, "\ufeff" + text)
    packed = tmp_path / "trace.csv.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    for file in (plain, packed):
        arrival_s, prompt, output = read_trace(file)
        assert list(arrival_s) == [0, 1.5]
        assert list(prompt) == [5, 6]
        assert list(output) == [3, 4]
        assert prompt.dtype == np.int64


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", ":1", "has no column `arrival_s`"),
        ("arrival_s,prompt_tokens\n0,1\n", ":1", "has no column `output_tokens`"),
        (HEAD, "", "holds no requests"),
        (HEAD + "0,1,1\n", "", "single request"),
        (HEAD + "0,1,1\nnan,1,1\n", ":3:1: arrival_s", "is nan, not a finite number"),
        (HEAD + "0,1,1\n1,NaN,1\n", ":3:2: prompt_tokens", "is NaN, not a finite number"),
        (HEAD + "inf,1,1\n1,1,1\n", ":2:1: arrival_s", "is inf"),
        (HEAD + "0,1,1\nsoon,1,1\n", ":3:1: arrival_s", "'soon' is not a number"),
        (HEAD + "-1,1,1\n0,1,1\n", ":2:1: arrival_s", "is negative"),
        (HEAD + "0,1,1\n2,1,1\n1,1,1\n", ":4:1: arrival_s", "out of order (1 s after 2 s)"),
        (HEAD + "0,1,1\n1,0,1\n", ":3:2: prompt_tokens", "is 0"),
        (HEAD + "0,1,1\n1,1,-4\n", ":3:3: output_tokens", "is -4"),
        (HEAD + "0,1,1\n1,1,2.5\n", ":3:3: output_tokens", "is 2.5"),
        (HEAD + "0,1,1\n1,1\n", ":3:3: output_tokens", "is missing"),
        (HEAD + "5,1,1\n5,1,1\n", "", "arrive at once"),
        (HEAD + "0,1,1\n1,1,1\n200,1,1\n", ": arrival_s", "a gap of 199 s, from 1 s to 200 s"),
    ],
)
def test_a_trace_that_cannot_be_right_is_refused_where_it_is_wrong(
    tmp_path: Path, text: str, where: str, what: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(BadInput) as caught:
        read_trace(file, "trace.csv")
    assert caught.value.where == f"trace.csv{where}"
    assert what in caught.value.what
    assert caught.value.exit_code == EXIT_BAD_INPUT


def test_what_is_no_file_no_text_or_cut_is_refused(tmp_path: Path) -> None:
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(HEAD.encode() * 100)[:-9])
    fake = tmp_path / "fake.csv.gz"
    fake.write_text(HEAD)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(HEAD.encode() + b"0,1,\xff\n")
    for file in (tmp_path, tmp_path / "none.csv", cut, fake, binary):
        with pytest.raises(BadInput):
            read_trace(file)


def test_quiet_minutes_are_traffic_and_a_recorder_that_stood_still_is_not(tmp_path: Path) -> None:
    steady = [f"{second},100,10" for second in range(0, 4000, 2)]
    holed = [line for line in steady if not 1000 < int(line.split(",")[0]) < 1300]
    read_trace(written(tmp_path, HEAD + "\n".join(steady)))
    with pytest.raises(BadInput, match="gap of 300 s"):
        read_trace(written(tmp_path, HEAD + "\n".join(holed)))


@pytest.mark.skipif(not DATA.is_dir(), reason="the reference data is not beside the project")
@pytest.mark.parametrize(
    ("name", "requests"), [("azure_conv_2023", 19_366), ("azure_code_2023", 8_819)]
)
def test_the_azure_traces_are_read_whole(name: str, requests: int) -> None:
    arrival_s, _, _ = read_trace(DATA / f"{name}.csv.gz")
    assert len(arrival_s) == requests
