"""Long-running processes go by the fleet file as it is now, and by the last valid one meanwhile."""

import shutil
from pathlib import Path

import pytest

from gpufleet.edges.clock import system_clock
from gpufleet.edges.database import open_database
from gpufleet.edges.workspace import PROJECT_ROOT, EnvironmentDir, Workspace
from gpufleet.flows.declared import DeclaredFleet, LiveGround
from gpufleet.flows.ground import Ground
from gpufleet.spec import load_fleet

SAMPLE = PROJECT_ROOT / "fleets/sample/production.yaml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A copy of the sample fleet."""
    copied = tmp_path / "sample"
    shutil.copytree(SAMPLE.parent, copied)
    return copied / SAMPLE.name


def renamed(text: str) -> str:
    return text.replace("mail-classification", "mail-sorting")


def test_a_changed_fleet_file_is_taken_and_an_invalid_or_another_one_is_not(file: Path) -> None:
    before = load_fleet(file)
    declared = DeclaredFleet(file, before)
    first = declared.now()
    assert first == before
    assert declared.now() is first
    text = file.read_text()
    file.write_text(renamed(text))
    changed = declared.now()
    assert "mail-sorting" in changed.use_cases
    for bad in ("nope: [", text.replace("fleet: sample", "fleet: other"), ""):
        file.write_text(bad)
        assert declared.now() is changed
    file.unlink()
    assert declared.now() is changed
    file.write_text(text)
    assert declared.now() == before


def test_a_changed_shared_part_is_a_changed_fleet(file: Path) -> None:
    declared = DeclaredFleet(file, load_fleet(file))
    part = file.parent / "shared" / "models.yaml"
    assert 1234 not in [each.load_time_s for each in declared.now().models.values()]
    lines = part.read_text().splitlines()
    index = next(index for index, line in enumerate(lines) if "load_time_s:" in line)
    lines[index] = f"{lines[index].partition('load_time_s:')[0]}load_time_s: 1234s"
    part.write_text("\n".join(lines))
    changed = [each.load_time_s for each in declared.now().models.values()]
    assert 1234 in changed


def test_shared_state_follows_the_files_and_who_has_begun_keeps_its_own(
    file: Path, tmp_path: Path
) -> None:
    state = EnvironmentDir(tmp_path / "state").make()
    database = open_database(state)
    fleet = load_fleet(file)
    live = LiveGround(Ground(Workspace(tmp_path), file, fleet, state, database, system_clock))
    begun = live.now()
    assert live.now() is begun
    file.write_text(renamed(file.read_text()))
    now = live.now()
    assert ("mail-sorting" in now.fleet.use_cases, now.database) == (True, database)
    assert "mail-sorting" not in begun.fleet.use_cases
    database.close()
