"""A host remembers what each part was, whatever else has been patched since."""

from gpufleet.core.patching.records import begun, ended, found, is_open

DRIVER = {
    "part": "driver",
    "flow": "p1",
    "version": "580.105.08",
    "before": "580.95.05",
    "packages": {"nvidia-driver": "580.95.05-1", "datacenter-gpu-manager-4-core": "4.4.1-1"},
}
RUNTIME = {
    "part": "containerd",
    "flow": "p2",
    "version": "2.1.5",
    "before": "2.1.4",
    "packages": {"containerd": "2.1.4-1"},
}


def test_a_driver_is_undone_to_its_own_packages_after_another_part_was_patched() -> None:
    file = ended(begun(ended(begun({}, DRIVER, keep=False)), RUNTIME, keep=False))
    assert not is_open(file)
    assert found(file, "driver") == {**DRIVER, "state": "done"}
    assert found(file, "containerd") == {**RUNTIME, "state": "done"}
    assert found(file, "kernel") == {}


def test_going_back_keeps_what_there_was_before() -> None:
    file = ended(begun(ended(begun({}, DRIVER, keep=False)), RUNTIME, keep=False))
    back = {**DRIVER, "version": "580.95.05", "before": "580.105.08", "packages": {}}
    again = begun(file, back, keep=True)
    assert is_open(again)
    assert found(again, "driver")["packages"] == DRIVER["packages"]
    assert found(again, "driver")["before"] == "580.95.05"
    assert found(ended(again), "containerd")["packages"] == RUNTIME["packages"]


def test_a_change_that_was_cut_short_keeps_what_it_had_found() -> None:
    cut = begun({}, DRIVER, keep=False)
    again = begun(cut, {**DRIVER, "before": "580.105.08", "packages": {}}, keep=False)
    assert found(again, "driver") == {**DRIVER, "state": "begun"}


def test_a_new_change_finds_anew() -> None:
    file = ended(begun({}, DRIVER, keep=False))
    newer = {**DRIVER, "version": "580.126.09", "before": "580.105.08", "packages": {"a": "1"}}
    assert found(begun(file, newer, keep=False), "driver")["before"] == "580.105.08"


def test_beside_an_open_change_nothing_of_another_part_is_told() -> None:
    file = begun(ended(begun({}, DRIVER, keep=False)), RUNTIME, keep=False)
    assert found(file, "driver") == {}
    assert found(ended(file), "driver")["before"] == "580.95.05"


def test_a_record_of_before_there_were_several_is_read() -> None:
    old = {**DRIVER, "state": "done"}
    assert found(old, "driver") == old
    assert found(ended(begun(old, RUNTIME, keep=False)), "driver") == old
