"""`plan.predict`: rows in their order, and one clear error for each row that cannot be right."""

import json
from pathlib import Path

import pytest

from gpufleet.core.capacity.predict import layout_of
from gpufleet.core.capacity.roofline import Layout
from gpufleet.core.capacity.shapes import built_in_shape, size_of
from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.flows.predict import predict_points
from gpufleet.spec.errors import EXIT_BAD_INPUT, BadInput
from gpufleet.spec.hardware import GpuType
from gpufleet.spec.load import built_in_gpus
from gpufleet.spec.serving import Precision

HEADER = "model,gpu,precision,tp,pp,isl,osl,concurrency"
GOOD = "meta-llama/Llama-3.1-8B-Instruct,h100_sxm,bf16,1,1,1024,128,8"
FLEET = PROJECT_ROOT / "fleets/article/production.yaml"


def written(folder: Path, *lines: str) -> Path:
    file = folder / "points.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_rows_come_back_in_order_with_their_columns_and_four_more(tmp_path: Path) -> None:
    lines = [GOOD.replace(",8", f",{n}") for n in (32, 4, 16)]
    rows = predict_points(written(tmp_path, HEADER, *lines))
    assert [row["concurrency"] for row in rows] == [32, 4, 16]
    answers = ["ttft_ms", "tpot_ms", "e2e_ms", "tokens_per_s_per_gpu"]
    assert list(rows[0]) == [*HEADER.split(","), *answers]
    assert rows[0]["gpu"] == "h100_sxm"
    for row in rows:
        ttft, tpot, e2e, rate = (float(row[name]) for name in answers)
        assert e2e == pytest.approx(ttft + 127 * tpot, rel=1e-3)
        assert rate == pytest.approx(float(row["concurrency"]) * 128 / e2e * 1000, rel=1e-3)


def test_both_spellings_of_a_gpu_are_one_gpu(tmp_path: Path) -> None:
    one, other = predict_points(written(tmp_path, HEADER, GOOD, GOOD.replace("_", "-")))
    assert one["tpot_ms"] == other["tpot_ms"]


def test_columns_may_stand_in_any_order_and_unknown_ones_are_kept(tmp_path: Path) -> None:
    header = "note,concurrency,osl,isl,pp,tp,precision,gpu,model"
    line = "mine," + ",".join(reversed(GOOD.split(",")))
    (turned,) = predict_points(written(tmp_path, header, line))
    (plain,) = predict_points(written(tmp_path, HEADER, GOOD))
    assert turned["note"] == "mine"
    assert turned["e2e_ms"] == plain["e2e_ms"]


def test_a_known_engine_changes_the_answer(tmp_path: Path) -> None:
    header = f"{HEADER},backend,backend_version"
    rows = predict_points(
        written(tmp_path, header, *(f"{GOOD},{name},1" for name in ("vllm", "trtllm", "")))
    )
    assert len({row["ttft_ms"] for row in rows}) == 3


def test_rows_of_recorded_expert_parallelism_are_read_as_they_were_run() -> None:
    gpus = {name: GpuType.model_validate(each) for name, each in built_in_gpus().items()}
    size, fp4 = size_of(built_in_shape("deepseek-ai/DeepSeek-R1")), Precision.FP4
    b200, gb200 = gpus["b200-sxm"], gpus["gb200"]
    assert layout_of(b200, size, fp4, 64, 1, 8) == Layout(8)
    assert layout_of(b200, size, fp4, 64, 1) == Layout(8)
    assert layout_of(b200, size, fp4, 1, 1, 4) == Layout(4, attention_groups=4)
    assert layout_of(b200, size, fp4, 1, 1) == Layout(4, attention_groups=4)
    assert layout_of(gb200, size, fp4, 36, 1) == Layout(36, attention_groups=36)
    dense = size_of(built_in_shape("meta-llama/Llama-3.1-70B"))
    assert layout_of(b200, dense, fp4, 1, 1) == Layout(1)
    assert layout_of(b200, dense, fp4, 4, 2) == Layout(4, 2)


def test_a_revision_s_measured_points_correct_its_rows(tmp_path: Path) -> None:
    points = written(tmp_path, HEADER, "llama-3.1-8b,h100-sxm,bf16,1,1,500,100,8")
    (plain,) = predict_points(points, FLEET)
    text = FLEET.read_text(encoding="utf-8")
    measured = "\n    ".join(
        [
            "points:",
            *(
                f"  - {{prompt_tokens: 500, output_tokens: 100, concurrency: {n},"
                " ttft_s: 0.4, tpot_s: 0.03}"
                for n in (4, 8, 16)
            ),
        ]
    )
    folder = tmp_path / "fleets"
    (folder / "calendars").mkdir(parents=True)
    for calendar in FLEET.parent.glob("calendars/*"):
        (folder / "calendars" / calendar.name).write_bytes(calendar.read_bytes())
    fleet = folder / "production.yaml"
    fleet.write_text(text.replace("rate_rps_per_gpu: 8", measured), encoding="utf-8")
    (corrected,) = predict_points(points, fleet)
    assert float(plain["tpot_ms"]) < 15
    assert corrected["tpot_ms"] == pytest.approx(30, rel=0.1)
    assert corrected["ttft_ms"] == pytest.approx(400, rel=0.2)


@pytest.mark.parametrize(
    ("line", "where", "what"),
    [
        (GOOD.replace("8B-Instruct", "8B-Instrct"), ":2:1: model", "is not a known model"),
        (GOOD.replace("h100_sxm", "h100_sx"), ":2:34: gpu", "is not a known gpu"),
        (GOOD.replace("bf16", "fp7"), ": precision", "is not a precision"),
        (GOOD.replace("1024", "nan"), ": isl", "not a finite number"),
        (GOOD.replace("1024", "inf"), ": isl", "not a finite number"),
        (GOOD.replace("1024", "-5"), ": isl", "has to be from 1"),
        (GOOD.replace(",128,", ",0,"), ": osl", "has to be from 1"),
        (GOOD.replace(",128,", ",1.5,"), ": osl", "not a whole number"),
        (GOOD.replace(",128,", ",many,"), ": osl", "is not a number"),
        (GOOD.replace(",128,", ",,"), ": osl", "is empty"),
        (GOOD + ",9", ":2:1", "has 9 cells"),
        ('"' + GOOD, ":2:1", "is not CSV"),
        (
            GOOD.replace("Llama-3.1-8B-Instruct", "Meta-Llama-3.1-405B"),
            ": tp",
            "does not fit on 1 GPU of type NVIDIA-H100",
        ),
    ],
)
def test_a_wrong_cell_is_told_with_its_place(
    tmp_path: Path, line: str, where: str, what: str
) -> None:
    with pytest.raises(BadInput) as told:
        predict_points(written(tmp_path, HEADER, line))
    assert told.value.exit_code == EXIT_BAD_INPUT
    assert where in told.value.where
    assert what in told.value.what


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (HEADER.encode(), "has no rows"),
        (b"model,gpu\na,b\n", "lacks the columns precision, tp"),
        (f"{HEADER},tp\n".encode(), "twice"),
        (b"\xff\xfe\x00model", "not UTF-8"),
        (b"\x00" * 50, "lacks the columns"),
    ],
)
def test_a_file_that_cannot_be_right_is_one_error(
    tmp_path: Path, content: bytes, what: str
) -> None:
    file = tmp_path / "points.csv"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=what):
        predict_points(file)
    with pytest.raises(BadInput, match="cannot be read"):
        predict_points(tmp_path / "nothing.csv")


def test_near_names_are_offered(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as told:
        predict_points(written(tmp_path, HEADER, GOOD.replace("h100_sxm", "h100_smx")))
    assert "h100-sxm" in told.value.mend
    assert json.dumps(told.value.as_json())
