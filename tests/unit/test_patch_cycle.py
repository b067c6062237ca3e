"""What is overdue, and which known vulnerabilities are installed, from OSV and CSAF files."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gpufleet.core.patching import cvss
from gpufleet.core.patching.advisories import from_csaf, from_osv, part_of, span_of
from gpufleet.core.patching.cadence import cycle, installed
from gpufleet.edges.advisory_files import read_advisories
from gpufleet.edges.database import Database
from gpufleet.edges.host_version_table import HostVersionTable
from gpufleet.edges.workspace import PROJECT_ROOT, Workspace
from gpufleet.flows.declared import LiveGround
from gpufleet.flows.ground import Ground
from gpufleet.flows.patch_cycle import PatchCycleKeeper, known_advisories, patch_cycle
from gpufleet.spec import load_fleet
from gpufleet.spec.advisories import CsafDocument, OsvEntry
from gpufleet.spec.errors import EXIT_BAD_INPUT, BadInput
from gpufleet.spec.governance import PatchTarget
from gpufleet.spec.patch_cycle import InstalledVersion, PatchCycleReport

SAMPLE = load_fleet(PROJECT_ROOT / "fleets/sample/production.yaml")
NOW = datetime(2026, 11, 26, 6, tzinfo=UTC)
CRITICAL = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H"


def osv(identity: str = "CVE-2026-1", **of: Any) -> dict[str, Any]:  # noqa: ANN401 - plain JSON
    return {
        "id": identity,
        "modified": "2026-11-01T00:00:00Z",
        "published": "2026-11-01T00:00:00Z",
        "severity": [{"type": "CVSS_V3", "score": CRITICAL}],
        "affected": [affected()],
        **of,
    }


def affected(
    name: str = "containerd",
    ecosystem: str = "Debian:12",
    fixed: str = "1.6.24~ds1-2",
    kind: str = "ECOSYSTEM",
) -> dict[str, Any]:
    events = [{"introduced": "0"}, {"fixed": fixed}]
    package = {"ecosystem": ecosystem, "name": name}
    return {"package": package, "ranges": [{"type": kind, "events": events}]}


def csaf(range_: str = "<580.105.08", category: str = "product_version_range") -> dict[str, Any]:
    version = {
        "category": category,
        "name": range_,
        "product": {"product_id": "P1", "name": f"driver {range_}"},
    }
    driver = {"category": "product_name", "name": "GPU Display Driver", "branches": [version]}
    return {
        "document": {
            "csaf_version": "2.0",
            "tracking": {"id": "NV-2026-1", "initial_release_date": "2026-10-01T00:00:00Z"},
        },
        "product_tree": {
            "branches": [{"category": "vendor", "name": "NVIDIA", "branches": [driver]}]
        },
        "vulnerabilities": [
            {
                "cve": "CVE-2026-9",
                "scores": [{"products": ["P1"], "cvss_v3": {"baseScore": 9.1}}],
                "product_status": {"known_affected": ["P1"]},
            }
        ],
    }


def has(part: str, version: str, node: str = "fra1-chat-001", **of: Any) -> InstalledVersion:  # noqa: ANN401 - any field
    return InstalledVersion(node=node, part=part, version=version, **of)


def report(tmp_path: Path, data: object, *rows: InstalledVersion) -> PatchCycleReport:
    file = tmp_path / "advisories.json"
    file.write_text(json.dumps(data))
    return cycle(SAMPLE, rows, known_advisories([file]), NOW)


@pytest.mark.parametrize(
    ("vector", "score", "word"),
    [
        # From the examples of FIRST.
        ("CVSS:3.0/AV:N/AC:L/PR:L/UI:N/S:C/C:L/I:L/A:N", 6.4, "medium"),
        ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 8.8, "high"),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8, "critical"),
        (CRITICAL, 10.0, "critical"),
        ("CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:N/I:N/A:N", 0.0, ""),
    ],
)
def test_a_vector_has_the_score_that_its_specification_gives(
    vector: str, score: float, word: str
) -> None:
    assert cvss.base_score(vector) == score
    assert cvss.severity(score) == word


@pytest.mark.parametrize("vector", ["CVSS:4.0/AV:N", "CVSS:3.1/AV:N", "", "high"])
def test_what_is_no_whole_vector_of_version_three_has_no_score(vector: str) -> None:
    assert cvss.base_score(vector) is None


@pytest.mark.parametrize(
    ("package", "part"),
    [
        ("containerd", "containerd"),
        ("github.com/containerd/containerd/v2", "containerd"),
        ("containerd.io", "containerd"),
        ("github.com/NVIDIA/nvidia-container-toolkit", "container-toolkit"),
        ("NVIDIA NVIDIA Container Toolkit", "container-toolkit"),
        ("nvidia-graphics-drivers-580-server", "driver"),
        ("NVIDIA GPU Display Driver", "driver"),
        ("linux", "kernel"),
        ("linux-nvidia-6.8", "kernel"),
        ("openssl", None),
        ("containerd-shim-wasm", None),
        ("linux-pam", None),
    ],
)
def test_packages_are_known_by_what_advisories_call_them(package: str, part: str | None) -> None:
    assert part_of(package) == part


@pytest.mark.parametrize(
    ("package", "row", "is_hit"),
    [
        (affected(), has("containerd", "1.6.20~ds1-1+deb12u1"), True),
        (affected(), has("containerd", "1.6.24~ds1-2"), False),
        # Ubuntu's package is another one.
        (affected(), has("containerd", "1.6.12-0ubuntu1"), False),
        (
            affected("github.com/containerd/containerd", "Go", "1.7.29", "SEMVER"),
            has("containerd", "1.7.24-1"),
            True,
        ),
        (
            affected("github.com/containerd/containerd", "Go", "1.7.29", "SEMVER"),
            has("containerd", "1.7.29-1"),
            False,
        ),
        (
            affected("github.com/NVIDIA/nvidia-container-toolkit", "Go", "1.17.8", "SEMVER"),
            has("container-toolkit", "1.17.4-1"),
            True,
        ),
        (
            affected("nvidia-graphics-drivers-580", "Ubuntu:24.04:LTS", "580.105.08-0ubuntu0.24"),
            has("driver", "580.95.05-1"),
            True,
        ),
        (
            affected("nvidia-graphics-drivers-580", "Ubuntu:24.04:LTS", "580.105.08-0ubuntu0.24"),
            has("driver", "580.105.08"),
            False,
        ),
        (
            affected("linux", "Ubuntu:24.04:LTS", "6.8.0-50.51"),
            has("kernel", "6.8.0-45-generic"),
            True,
        ),
        (
            affected("linux", "Ubuntu:24.04:LTS", "6.8.0-50.51"),
            has("kernel", "6.8.0-50-generic"),
            False,
        ),
        (
            affected("linux-aws", "Ubuntu:24.04:LTS", "6.8.0-1018.20"),
            has("kernel", "6.8.0-45-generic"),
            False,
        ),
        (
            affected("linux", "Ubuntu:24.04:LTS", "6.8.0-50.51"),
            has("kernel", "5.15.0-130-generic"),
            False,
        ),
        (
            affected("containerd", "Rocky Linux:9", "2:1.7.30-1.el9"),
            has("containerd", "2:1.7.24-1.el9"),
            True,
        ),
    ],
)
def test_an_installed_version_is_matched_with_its_own_kind_of_range(
    tmp_path: Path, package: dict[str, Any], row: InstalledVersion, *, is_hit: bool
) -> None:
    found = report(tmp_path, osv(affected=[package]), row)
    assert [each.nodes for each in found.exposures] == ([["fra1-chat-001"]] if is_hit else [])
    assert found.undecided == []


def test_an_exposure_tells_what_mends_it_and_how_long_it_has_been_known(tmp_path: Path) -> None:
    found = report(
        tmp_path,
        osv(aliases=["GHSA-1"]),
        has("containerd", "1.6.20"),
        has("containerd", "1.6.21", "fra1-chat-002"),
        has("containerd", "1.7.0", "fra1-chat-003"),
    )
    (exposure,) = found.exposures
    assert exposure.severity == "critical"
    assert exposure.component is PatchTarget.RUNTIME
    assert exposure.nodes == ["fra1-chat-001", "fra1-chat-002"]
    assert exposure.versions == ["1.6.20", "1.6.21"]
    assert exposure.fixed == ["1.6.24~ds1-2"]
    assert exposure.aliases == ["GHSA-1"]
    assert exposure.age_s == found.oldest_critical_s == timedelta(days=25, hours=6).total_seconds()


def test_a_critical_vulnerability_is_overdue_once_its_time_is_over(tmp_path: Path) -> None:
    limit_s = SAMPLE.patching[PatchTarget.RUNTIME].critical_within_s
    for age_s, late_s in ((limit_s - 60, 0), (limit_s + 60, 60)):
        published = (NOW - timedelta(seconds=age_s)).isoformat()
        found = report(tmp_path, osv(published=published), has("containerd", "1.6.20"))
        (row,) = [each for each in found.cadences if each.component is PatchTarget.RUNTIME]
        assert row.overdue_s == late_s
        assert found.is_good == (late_s == 0)


def test_a_withdrawn_advisory_says_nothing(tmp_path: Path) -> None:
    withdrawn = osv(withdrawn="2026-11-02T00:00:00Z")
    assert report(tmp_path, withdrawn, has("containerd", "1.6.20")).advisories == 0


@pytest.mark.parametrize(
    "package",
    [
        affected("linux", "Debian:12", "6.1.119-1"),
        affected("Kernel", "Linux", "6.1.119"),
    ],
)
def test_what_cannot_be_compared_is_told_and_not_passed_over(
    tmp_path: Path, package: dict[str, Any]
) -> None:
    found = report(tmp_path, osv(affected=[package]), has("kernel", "6.1.0-28-amd64"))
    assert found.exposures == []
    assert found.undecided == [
        "CVE-2026-1: nobody can tell whether kernel 6.1.0-28-amd64 is affected"
    ]


@pytest.mark.parametrize(
    ("range_", "category", "version", "is_hit"),
    [
        ("<580.105.08", "product_version_range", "580.95.05", True),
        ("<580.105.08", "product_version_range", "580.105.08", False),
        ("vers:generic/>=580|<580.105.08", "product_version_range", "575.57.08", False),
        ("vers:generic/>=580|<580.105.08", "product_version_range", "580.95.05", True),
        ("All driver versions prior to 580.105.08", "product_version", "580.95.05", True),
        ("580.95.05", "product_version", "580.95.05", True),
        ("580.95.05", "product_version", "580.82.07", False),
        ("<=580.95.05", "product_version_range", "580.95.05-1", True),
    ],
)
def test_a_csaf_document_is_matched_by_its_product_tree(
    tmp_path: Path, range_: str, category: str, version: str, *, is_hit: bool
) -> None:
    found = report(tmp_path, csaf(range_, category), has("driver", version))
    assert bool(found.exposures) == is_hit
    if is_hit:
        assert found.exposures[0].severity == "critical"
        assert found.exposures[0].advisory == "CVE-2026-9"
        assert found.exposures[0].aliases == ["NV-2026-1"]


@pytest.mark.parametrize(
    ("status", "version", "is_hit"),
    [
        ("first_affected", "580.95.05", True),
        ("first_affected", "590.44.01", True),
        ("first_affected", "575.57.08", False),
        ("last_affected", "575.57.08", True),
        ("last_affected", "580.105.08", False),
    ],
)
def test_the_first_or_last_affected_product_is_a_bound(
    tmp_path: Path, status: str, version: str, *, is_hit: bool
) -> None:
    document = csaf("580.95.05", "product_version")
    document["vulnerabilities"][0]["product_status"] = {status: ["P1"]}
    assert bool(report(tmp_path, document, has("driver", version)).exposures) == is_hit


def test_a_fixed_product_ends_a_range_that_has_no_end(tmp_path: Path) -> None:
    document = csaf(">=580", "product_version_range")
    driver = document["product_tree"]["branches"][0]["branches"][0]
    mended = {"product_id": "P2", "name": "driver 580.105.08"}
    driver["branches"].append(
        {"category": "product_version", "name": "580.105.08", "product": mended}
    )
    document["vulnerabilities"][0]["product_status"]["fixed"] = ["P2"]
    (exposure,) = report(tmp_path, document, has("driver", "580.95.05")).exposures
    assert exposure.fixed == ["580.105.08"]
    assert not report(tmp_path, document, has("driver", "580.105.08")).exposures


def test_a_version_holds_for_the_architectures_below_it_and_for_what_it_is_part_of(
    tmp_path: Path,
) -> None:
    document = csaf()
    version = document["product_tree"]["branches"][0]["branches"][0]["branches"][0]
    product = version.pop("product")
    version["branches"] = [{"category": "architecture", "name": "x86_64", "product": product}]
    assert report(tmp_path, document, has("driver", "580.95.05")).exposures
    assert not report(tmp_path, document, has("driver", "580.105.08")).exposures
    whole = {"product_id": "P9", "name": "driver as part of a system"}
    document["product_tree"]["relationships"] = [
        {"category": "default_component_of", "product_reference": "P1", "full_product_name": whole}
    ]
    document["vulnerabilities"][0]["product_status"] = {"known_affected": ["P9"]}
    assert report(tmp_path, document, has("driver", "580.95.05")).exposures


def test_a_range_in_words_is_undecided(tmp_path: Path) -> None:
    found = report(tmp_path, csaf("see the bulletin"), has("driver", "580.95.05"))
    assert len(found.undecided) == 1
    assert span_of("see the bulletin") is None


def test_a_product_of_one_driver_branch_says_nothing_of_others(tmp_path: Path) -> None:
    document = csaf("<580.105.08")
    document["product_tree"]["branches"][0]["branches"][0]["name"] = "GPU Display Driver R580"
    assert report(tmp_path, document, has("driver", "580.95.05")).exposures
    assert not report(tmp_path, document, has("driver", "535.261.03")).exposures


def test_what_two_files_say_of_one_vulnerability_is_put_together(tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text(json.dumps(osv(affected=[affected("containerd.io"), affected("openssl")])))
    other.write_text(json.dumps(osv()))
    (known,) = known_advisories([one, other])
    assert [each.package for each in known.affected] == ["containerd.io", "containerd"]


def test_what_is_about_other_software_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(osv(affected=[affected("openssl")])))
    assert known_advisories([tmp_path / "a.json"]) == []


def test_one_a_list_lines_an_answer_and_a_zip_hold_the_same(tmp_path: Path) -> None:
    entries = [osv("A"), osv("B")]
    files = {
        "list.json": json.dumps(entries),
        "lines.ndjson": "\n".join(json.dumps(each) for each in entries) + "\n\n",
        "answer.json": json.dumps({"vulns": entries}, indent=2),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for each in entries:
            archive.writestr(f"{each['id']}.json", json.dumps(each, indent=1))
        archive.writestr("README.txt", "not one")
    for name in (*files, "all.zip"):
        read = list(read_advisories(tmp_path / name))
        assert [each.id for each in read if isinstance(each, OsvEntry)] == ["A", "B"]
    (tmp_path / "one.json").write_text(json.dumps(csaf(), indent=2))
    (document,) = read_advisories(tmp_path / "one.json")
    assert isinstance(document, CsafDocument)
    assert [each.id for each in from_csaf(document)] == ["CVE-2026-9"]


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "a.json", "is empty"),
        ('{"id": ', "a.json:1:8", "is not JSON: expecting value"),
        ('{\n"id": "A",\n}', "a.json:3:1", "is not JSON"),
        ("[1]", "a.json: [0]", "is neither an OSV entry nor a CSAF document"),
        ('{"a": 1}', "a.json", "is neither an OSV entry nor a CSAF document"),
        ('{"id": "A"}', "a.json: modified", "is missing"),
        (json.dumps([osv(), osv(affected=3)]), "a.json: [1].affected", "valid list"),
        (json.dumps(osv(published="soon")), "a.json: published", "datetime"),
        (
            json.dumps(osv(affected=[{"ranges": [{"type": "SEMVER", "events": []}]}])),
            "a.json: affected[0].ranges[0].events",
            "at least 1 item",
        ),
        (json.dumps(osv()) + "\n" + json.dumps(osv()) + "\n{", "a.json:3:2", "is not JSON"),
        (json.dumps(osv()) + '\n{"id": "B"}', "a.json:2: modified", "is missing"),
        (
            json.dumps({**csaf(), "vulnerabilities": []}),
            "a.json: vulnerabilities",
            "at least 1 item",
        ),
        (
            json.dumps({**csaf(), "document": {**csaf()["document"], "csaf_version": "1.2"}}),
            "a.json",
            "is CSAF 1.2, and 2.0 is read",
        ),
        ("[" * 100_000, "a.json", "is nested too deeply"),
    ],
)
def test_a_malformed_file_is_one_error_with_its_place(
    tmp_path: Path, text: str, where: str, what: str
) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInput) as refused:
        list(read_advisories(tmp_path / "a.json"))
    assert refused.value.where == f"{tmp_path}/{where}"
    assert what in refused.value.what
    assert refused.value.exit_code == EXIT_BAD_INPUT


def test_files_that_cannot_be_read_are_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b'{"id":\n"\xff"}')
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("README.txt", "")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("x/A.json", "{")
    for name, where, what in (
        ("missing", "missing", "cannot be read: No such file"),
        (".", "", "is no file"),
        ("text", "text:2", "is not UTF-8 text"),
        ("cut.zip", "cut.zip:1:1", "is not JSON"),
        ("none.zip", "none.zip", "holds no .json file"),
        ("bad.zip", "bad.zip!x/A.json:1:2", "is not JSON"),
    ):
        with pytest.raises(BadInput) as refused:
            list(read_advisories(tmp_path / name))
        assert refused.value.where == str(tmp_path / where)
        assert what in refused.value.what


def test_a_component_is_overdue_by_the_host_that_has_waited_longest() -> None:
    every_s = SAMPLE.patching[PatchTarget.DRIVER].every_s
    rows = [
        has("driver", "580.95.05", since=NOW - timedelta(seconds=every_s + 60)),
        has("driver", "580.95.05", "fra1-chat-002", since=NOW),
        has("driver", "580.95.05", "fra1-chat-003"),
    ]
    found = cycle(SAMPLE, rows, [], NOW)
    (row,) = [each for each in found.cadences if each.component is PatchTarget.DRIVER]
    assert (row.oldest_node, row.late_s, row.hosts, row.unknown) == ("fra1-chat-001", 60, 2, 1)
    assert not found.is_good
    assert cycle(SAMPLE, rows[1:], [], NOW).is_good


def test_a_component_tells_when_its_next_window_opens() -> None:
    rows = {row.component: row.window_opens for row in cycle(SAMPLE, [], [], NOW).cadences}
    # It is Thursday; drivers are patched on Tuesdays and Wednesdays at ten in the evening.
    opens = rows[PatchTarget.DRIVER]
    assert opens is not None
    assert opens.isoformat() == "2026-12-01T22:00:00+01:00"


def test_pins_stand_in_for_hosts_that_nobody_has_seen() -> None:
    seen = has("driver", "580.105.08", since=NOW, seen_at=NOW)
    rows = installed(SAMPLE, [seen])
    drivers = [row for row in rows if row.part == "driver"]
    assert len(drivers) == sum(group.nodes for group in SAMPLE.node_groups.values())
    assert seen in drivers
    assert {row.version for row in drivers if row.since is None} == {"580.95.05"}


def test_a_component_of_which_nothing_is_known_is_told_as_unseen() -> None:
    assert all(group.pins.containerd is None for group in SAMPLE.node_groups.values())
    found = cycle(SAMPLE, installed(SAMPLE, []), [], NOW)
    (runtime,) = [each for each in found.cadences if each.component is PatchTarget.RUNTIME]
    assert runtime.unknown == sum(group.nodes for group in SAMPLE.node_groups.values())
    assert PatchTarget.OS not in SAMPLE.patching
    assert not [row for row in installed(SAMPLE, []) if row.part == "kernel"]


@pytest.fixture
def table(tmp_path: Path) -> HostVersionTable:
    database = Database(f"sqlite:///{tmp_path}/state.db")
    database.migrate()
    return HostVersionTable(database)


HOUR = timedelta(hours=1)


def test_a_version_counts_from_when_it_changed_or_a_patch_looked_at_it(
    table: HostVersionTable,
) -> None:
    table.saw("gpu-001", {"driver": "1", "kernel": ""}, NOW)
    table.saw("gpu-001", {"driver": "1"}, NOW + HOUR)
    (row,) = table.rows()
    assert (row.since, row.seen_at) == (NOW, NOW + HOUR)
    table.saw("gpu-001", {"driver": "2"}, NOW + 2 * HOUR)
    assert table.rows()[0].since == NOW + 2 * HOUR
    table.saw("gpu-001", {"driver": "2"}, NOW + 3 * HOUR, "patch-1")
    assert (table.rows()[0].since, table.rows()[0].flow) == (NOW + 3 * HOUR, "patch-1")
    table.saw("gpu-001", {"driver": "1"}, NOW)
    assert table.rows()[0].version == "2"


def test_a_pin_begins_the_clock_and_never_sets_it_back(table: HostVersionTable) -> None:
    table.began([("gpu-001", "driver", "1")], NOW)
    table.began([("gpu-001", "driver", "2"), ("gpu-002", "driver", "2")], NOW + HOUR)
    first, second = table.rows()
    assert (first.version, first.since) == ("1", NOW)
    assert second.since == NOW + HOUR
    # Somebody looks, and it has another version than the pin: that is not news of today.
    table.saw("gpu-001", {"driver": "3"}, NOW + HOUR)
    assert (table.rows()[0].version, table.rows()[0].since) == ("3", NOW)


def test_an_entry_without_a_score_of_version_three_has_the_databases_word() -> None:
    entry = OsvEntry.model_validate(
        osv(severity=[{"type": "CVSS_V4", "score": "CVSS:4.0/AV:N"}])
        | {"database_specific": {"severity": "MODERATE"}}
    )
    known = from_osv(entry)
    assert known is not None
    assert known.severity == "medium"


class Told:
    """What a keeper has told."""

    def __init__(self) -> None:
        self.overdue: dict[PatchTarget, float | None] = {}
        self.oldest_s = -1.0

    def set_overdue(self, target: PatchTarget, seconds: float | None) -> None:
        self.overdue[target] = seconds

    def set_oldest(self, seconds: float) -> None:
        self.oldest_s = seconds


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    file = tmp_path / "fleets" / "sample" / "production.yaml"
    shutil.copytree(PROJECT_ROOT / "fleets" / "sample", file.parent)
    text = file.read_text().replace("currency: EUR", "currency: EUR\nadvisories: [osv.json]")
    file.write_text(text)
    (file.parent / "osv.json").write_text("[]")
    opened = Ground.open(Workspace(tmp_path), file)
    yield replace(opened, clock=lambda: NOW)
    opened.close()


def test_the_worker_tells_what_is_overdue_and_begins_the_clock_of_unseen_hosts(
    ground: Ground,
) -> None:
    told = Told()
    keeper = PatchCycleKeeper(LiveGround(ground), told.set_overdue, told.set_oldest)
    keeper.keep()
    assert told.overdue == dict.fromkeys(ground.fleet.patching, 0.0) | {PatchTarget.OS: None}
    assert told.oldest_s == 0
    every_s = ground.fleet.patching[PatchTarget.DRIVER].every_s
    (driver, *_) = patch_cycle(ground).cadences
    assert (driver.unknown, driver.hosts) == (64, 64)
    later = replace(ground, clock=lambda: NOW + timedelta(seconds=every_s + 60))
    keeper = PatchCycleKeeper(LiveGround(later), told.set_overdue, told.set_oldest)
    keeper.keep()
    assert told.overdue[PatchTarget.DRIVER] == 60
    assert told.overdue[PatchTarget.FIRMWARE] == 0


def test_the_worker_reads_advisories_again_once_they_have_changed(ground: Ground) -> None:
    told, file = Told(), ground.fleet_file.parent / "osv.json"
    keeper = PatchCycleKeeper(LiveGround(ground), told.set_overdue, told.set_oldest)
    keeper.keep()
    driver = affected("nvidia-graphics-drivers-580", "Ubuntu:24.04:LTS", "580.105.08-0ubuntu1")
    file.write_text(json.dumps(osv(affected=[driver])))
    keeper.keep()
    assert told.oldest_s == timedelta(days=25, hours=6).total_seconds()
    assert told.overdue[PatchTarget.DRIVER] == told.oldest_s - 72 * 3600
    # What was read last holds while the file is broken, and the chore says so.
    file.write_text("{")
    told.oldest_s = -1
    with pytest.raises(BadInput):
        keeper.keep()
    assert told.oldest_s > 0


def test_a_report_by_hand_reads_the_given_files_in_place_of_the_declared_ones(
    ground: Ground, tmp_path: Path
) -> None:
    assert patch_cycle(ground).advisories == 0
    for name in ("A", "B"):
        (tmp_path / f"{name}.json").write_text(json.dumps(osv(name)))
    given = f"{tmp_path}/A.json, {tmp_path}/B.json"
    assert patch_cycle(ground, advisories=given).advisories == 2
