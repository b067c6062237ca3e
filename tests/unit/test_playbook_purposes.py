"""What goes on in a freeze is known by the playbook, and a rollback only leads back."""

import pytest

from gpufleet.core.freeze import Purpose
from gpufleet.core.patching.purposes import demand_back, only_look, purpose_of
from gpufleet.spec.errors import BadInput, PolicyRefused
from gpufleet.spec.patching import Part

OLD, NEW = "580.95.05", "580.105.08"


@pytest.mark.parametrize(
    ("files", "purpose"),
    [
        (["playbooks/drivers.yml"], Purpose.CHANGE),
        (["firmware.yml"], Purpose.CHANGE),
        (["my own.yml"], Purpose.CHANGE),
        (["/x/rollback.yml"], Purpose.ROLLBACK),
        (["quarantine.yml"], Purpose.QUARANTINE),
        (["rollback.yml", "drivers.yml"], Purpose.CHANGE),
        (["quarantine.yml", "rollback.yml"], Purpose.CHANGE),
        ([], Purpose.CHANGE),
    ],
)
def test_a_playbook_s_file_says_what_it_is_for(files: list[str], purpose: Purpose) -> None:
    assert purpose_of(files, "", by_flow=False) is purpose
    assert purpose_of(files, purpose.value, by_flow=False) is purpose


@pytest.mark.parametrize("asked", [Purpose.ROLLBACK, Purpose.QUARANTINE])
def test_no_variable_by_hand_makes_an_exempt_one_of_a_change(asked: Purpose) -> None:
    with pytest.raises(BadInput, match="is what a flow says"):
        purpose_of(["drivers.yml"], asked.value, by_flow=False)
    assert purpose_of(["drivers.yml"], asked.value, by_flow=True) is asked


def test_only_the_playbook_that_validates_changes_nothing() -> None:
    assert only_look(["playbooks/validate.yml"])
    assert not only_look(["playbooks/validate.yml", "drivers.yml"])
    assert not only_look(["drivers.yml"])


@pytest.mark.parametrize(
    ("part", "wanted", "before", "installed"),
    [
        (Part.DRIVER, OLD, OLD, NEW),
        (Part.DRIVER, OLD, "", NEW),
        (Part.DRIVER, OLD, OLD, ""),
        # What had a newer version before a change to an older one.
        (Part.DRIVER, NEW, NEW, OLD),
        (Part.DRIVER, NEW, "", NEW),
        (Part.CONTAINERD, "1.7.20", "", "1.7.24-1"),
        (Part.CONTAINERD, "1.7.20-1", "", "1:1.7.24-1"),
        (Part.KERNEL, "6.1.0-26-amd64", "", "6.1.0-28-amd64"),
        (Part.VBIOS, "96.00.A5.00.01", "", "96.00.B1.00.01"),
        (Part.SECURITY, "5-open", "5-open", "0-open"),
    ],
)
def test_a_rollback_leads_back(part: Part, wanted: str, before: str, installed: str) -> None:
    demand_back(part, wanted, before=before, installed=installed)


@pytest.mark.parametrize(
    ("part", "wanted", "before", "installed"),
    [
        (Part.DRIVER, NEW, "", OLD),
        (Part.DRIVER, NEW, "570.1", OLD),
        (Part.DRIVER, NEW, "", ""),
        (Part.CONTAINERD, "1.7.24", "", "1:1.7.20-1"),
        (Part.VBIOS, "96.00.B1.00.01", "", "96.00.A5.00.01"),
    ],
)
def test_a_rollback_to_something_newer_is_a_change(
    part: Part, wanted: str, before: str, installed: str
) -> None:
    with pytest.raises(PolicyRefused, match="is no way back"):
        demand_back(part, wanted, before=before, installed=installed)
