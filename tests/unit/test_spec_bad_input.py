"""Every slip in a fleet file gives one error that points at it and says what would be right."""

import re
from pathlib import Path

import pytest

from gpufleet.edges.workspace import PROJECT_ROOT
from gpufleet.spec import Fleet, load_fleet
from gpufleet.spec.errors import EXIT_BAD_INPUT, BadInput

ARTICLE = PROJECT_ROOT / "fleets" / "article" / "production.yaml"
KEY = "AAAAC3NzaC1lZDI1NTE5AAAAI"
SHIFT = "window_s: 1h, weekdays: [1], critical_within_s: 1h"


def load(folder: Path, old: str = "", new: str = "") -> Fleet:
    """The article's fleet with the first `old` replaced."""
    text = ARTICLE.read_text()
    assert old in text
    file = folder / "production.yaml"
    file.write_text(text.replace(old, new, 1))
    return load_fleet(file)


def refused(folder: Path, old: str, new: str) -> BadInput:
    """The error; its place is the text of the field that it names."""
    with pytest.raises(BadInput) as raised:
        load(folder, old, new)
    error = raised.value
    assert error.exit_code == EXIT_BAD_INPUT
    match = re.fullmatch(r"(.*\.yaml):(\d+):(\d+): (\S+)", error.where)
    assert match, error.where
    file, line, column, field = match.groups()
    found = Path(file).read_text().splitlines()[int(line) - 1][int(column) - 1 :]
    last = field.rpartition(".")[2]
    assert found.startswith(last) or last.endswith("]") or error.what == "is missing", found
    return error


def extra(section: str) -> tuple[str, str]:
    """An edit that adds a section."""
    return "currency: USD", f"currency: USD\n{section}"


@pytest.mark.parametrize(
    ("old", "new", "field", "mend"),
    [
        ("slo: {p95_s:", "slo: {p95:", "use_cases.answers.slo.p95", "`p95_s`"),
        ("{replicas: 7", "{replica: 7", "pools.answers.placements.h100.replica", "`replicas`"),
        ("teams:", "team:", "team", "`teams`"),
        ("region: eu,", "regoin: eu,", "sites.main.regoin", "`region`"),
        (
            "region: eu,",
            "region: eu, cluster: {provider: existing, contxt: a},",
            "sites.main.cluster.contxt",
            "`context`",
        ),
        (*extra("gpus: {h100-sxm: {powerw: 650}}"), "gpus.h100-sxm.powerw", "`power_w`"),
        ("currency: USD", "currrency: USD", "currrency", "`currency`"),
    ],
)
def test_an_unknown_field_names_the_nearest_valid_one_and_nothing_else(
    tmp_path: Path, old: str, new: str, field: str, mend: str
) -> None:
    error = refused(tmp_path, old, new)
    assert error.what == "unknown field"
    assert error.where.endswith(f": {field}")
    assert error.mend == f"did you mean {mend}?"


def test_a_field_that_is_like_no_other_lists_what_is_valid(tmp_path: Path) -> None:
    error = refused(tmp_path, "rto_s: 30min", "rto_s: 30min\n    zzz: 1")
    assert error.mend.startswith("valid here: cache_s, class, ")


def test_a_missing_field_points_at_the_part_that_lacks_it(tmp_path: Path) -> None:
    error = refused(tmp_path, "    rto_s: 30min\n", "")
    assert error.where.endswith(":53:3: use_cases.answers.rto_s")
    assert error.what == "is missing"


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("p95_s: 2s", "p95_s: 2GiB", "'2GiB' has the unit `GiB`, expected a duration such as"),
        ("p95_s: 2s", "p95_s: fast", "'fast' is not a duration such as"),
        ("p95_s: 2s", "p95_s: -2s", "'-2s' is not a duration such as"),
        ("p95_s: 2s", "p95_s: true", "has to be a number, not true"),
        ("p95_s: 2s", "p95_s: .nan", "not nan"),
        ("rto_s: 30min", "rto_s:", "has to be a number, not empty"),
        ("rto_s: 30min", "rto_s: .inf", "has to be at most 3200000000, not inf"),
        ("rto_s: 30min", "rto_s: [1h]", "has to be a number, not a list of 1"),
        (": 128KiB", ": 2s", "'2s' has the unit `s`, expected a size such as"),
        (": 128KiB", f": {'9' * 400}GiB", "is not a size such as"),
        (": 128KiB", f": {'9' * 400}", "has to be at most"),
        ("{replicas: 7", "{replicas: seven", "has to be a whole number, not 'seven'"),
        ("{replicas: 7", "{replicas: 7.5", "has to be a whole number, not 7.5"),
        ("{replicas: 7", "{replicas: true", "has to be a number, not true"),
        ("{replicas: 7", "{replicas: -1", "has to be at least 0, not -1"),
        ("pue: 1.3", "pue: 0.9", "has to be at least 1, not 0.9"),
        ("pue: 1.3", "pue: .inf", "not inf"),
        ('cuda: "13.0"', "cuda: 13.0", "has to be text, not 13.0"),
        ("2026-02-01", "20260201", "has to be written like 2026-03-31"),
        ("2026-02-01", "2026-02-30", "'2026-02-30' is not a valid date"),
        ("2026-02-01", "soon", "has to be a date such as 2026-03-31, not 'soon'"),
        ("node: 290000", "node: much", "has to be an amount such as 1200 or 0.21, not 'much'"),
        ("node: 290000", "node: -1", "has to be at least 0, not -1"),
        ("node: 290000", "node: .nan", "has to be a finite number, not NaN"),
        ("node: 290000", "node: yes", "has to be an amount"),
        ("node: 290000", "node: true", "has to be a number, not true"),
        ("class: interactive", "class: interactiv", "has to be one of interactive, batch"),
        ("region: eu,", "region: EU West,", "has to be a name of small letters"),
        ("  r1: {site", "  R1: {site", "the name has to be a name of small letters"),
        ("[r1, r2]", "[r1, r1]", "lists `r1` twice"),
        ("[r1, r2]", "[]", "has to have 1 or more entries"),
        ("[r1, r2]", "r1", "has to be a list, not 'r1'"),
        ("region: eu,", "region: eu, cluster: kind,", "has to be a mapping of fields, not 'kind'"),
        ("region: eu,", "region: eu, cluster: {provider: aks},", "one of embedded, existing"),
        *(
            ("precision: bf16", f"source: {wrong}\n    precision: bf16", "an object store path")
            for wrong in ("https://models/a", "s3://models/../a", "s3://models", "s3://models/a/b")
        ),
        ("digest: sha256:7b", "digest: sha256:", "has to be a digest"),
        ("openai@sha256:93f7", "openai:latest@sha256:", "has to be an image by digest"),
        ("name: Ada Lund", 'name: "Ada\\e[2J"', "has to be text without control characters"),
        ("currency: USD", "currency: dollars", "has to be an ISO 4217 code"),
        (KEY, KEY[:-4], "is not a whole ssh-ed25519 public key"),
        ("calendars/company", "../company", "has to be a path below the fleet file's folder"),
        ("calendars/company", "/etc/company", "has to be a path below the fleet file's folder"),
        ("file: calendars/company.ics", "url: http://example.com/c.ics", "be an https address"),
        ("file: calendars/company.ics", "url: https://me:pw@example.com/c.ics", "https address"),
        ("ics, stale", "ics, changes: [drivers], stale", "has to be one of stacks, release,"),
        ("ics, stale", "ics, kind: freeze, stale", "has to be one of blackout, maintenance"),
        (
            *extra(f"patching: {{driver: {{every_s: 1d, window_starts: 22:00Z, {SHIFT}}}}}"),
            "has to be a local time without an offset",
        ),
        (
            *extra(f"patching: {{driver: {{every_s: 1d, window_starts: 79200, {SHIFT}}}}}"),
            "has to be written like",
        ),
    ],
)
def test_a_wrong_value_says_what_it_has_to_be_and_what_it_is(
    tmp_path: Path, old: str, new: str, what: str
) -> None:
    assert what in refused(tmp_path, old, new).what


@pytest.mark.parametrize(
    ("old", "new", "what", "mend"),
    [
        ("model: llama-3.1-8b\n", "model: llama-3.1-8\n", "model revision", "`llama-3.1-8b`"),
        ("team: support", "team: suport", "there is no team `suport`", "`support`"),
        ("gpu_type: h100-sxm", "gpu_type: h100", "there is no GPU type `h100`", "`h100-sxm`"),
        ("owner: ada", "owner: adda", "there is no identity `adda`", "`ada`"),
        ("[r1, r2]", "[r1, r3]", "there is no rack at site main named `r3`", "valid here: r1, r2"),
        ("r1: {site: main", "r1: {site: mian", "there is no site `mian`", "`main`"),
        ("cases: [answers]", "cases: [answer]", "there is no use case `answer`", "`answers`"),
        ("      h100: {", "      h10: {", "there is no node group `h10`", "`h100`"),
        ("[eu]", "[us]", "there is no region `us`", "valid here: eu"),
        ("ics, stale", "ics, sites: [mian], stale", "there is no site `mian`", "`main`"),
        ("ics, stale", "ics, pools: [answer], stale", "there is no pool `answer`", "`answers`"),
        ("ics, stale", "ics, time_zone: Europe/Bonn, stale", "no time zone", "such as"),
        ("{rate_rps: 50}", "{rate_rps: 50, time_zone: Europe/Bonn}", "no time zone", "such as"),
        ("{rate_rps: 50}", "{rate_rps: 50, time_zone: ../etc}", "no time zone", "such as"),
    ],
)
def test_a_reference_to_nothing_names_the_nearest_thing_there_is(
    tmp_path: Path, old: str, new: str, what: str, mend: str
) -> None:
    error = refused(tmp_path, old, new)
    assert what in error.what
    assert mend in error.mend


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("parameters: 8030000000", "parameters: 80300000000", "model `llama-3.1-8b` needs"),
        ("max_replicas: 10", "max_replicas: 17", "is 17, and 16 fit"),
        ("max_replicas: 10", "max_replicas: 6", "is below `replicas` (6 < 7)"),
        ("gpus_per_node: 1}", "gpus_per_node: 9}", "a node here has 8 GPUs"),
        (
            "class: interactive\n    model: llama-3.1-8b\n    use",
            "class: batch\n    model: llama-3.1-8b\n    use",
            "is interactive, the pool batch",
        ),
        ("    use_cases: [answers]\n", "", "no pool lists this use case"),
        ("ttft_p95_s: 500ms", "ttft_p95_s: 3s", "is above `p95_s`"),
        ("output_max: 512", "output_max: 100", "is below `output_p95`"),
        ("length_tokens: 8192", "length_tokens: 1024", "needs a context of 1712 tokens"),
        ("    engine:\n", "    engine:\n      arguments: {port: 80}\n", "follows from the pool"),
        (
            "    data_class: internal",
            "    data_class: restricted\n    hosted: {provider: x, model: y, monthly_cap: 1}",
            "restricted data may not leave",
        ),
        ("rto_s: 30min", "rto_s: 30min\n    fallback: llama-3.1-8b", "is the same revision"),
        ("file: calendars/company.ics, ", "", "has neither `file` nor `url`"),
        ("ics, stale", "ics, url: https://a.example/c.ics, stale", "has both `file` and `url`"),
        ("pools:\n  answers:", "pools:\n  drill-answers:", "are those of drills"),
        ("use_cases:\n  answers:", "use_cases:\n  drill-answers:", "are those of drills"),
    ],
)
def test_sections_that_contradict_each_other_are_refused(
    tmp_path: Path, old: str, new: str, what: str
) -> None:
    assert what in refused(tmp_path, old, new).what


def test_a_model_too_large_says_how_many_gpus_it_needs(tmp_path: Path) -> None:
    error = refused(tmp_path, "parameters: 8030000000", "parameters: 80300000000")
    assert error.where.endswith(": pools.answers.placements.h100")
    assert "weights 149.6" in error.what
    assert "offer 72.0 GiB" in error.what
    assert error.mend == "give a replica at least 3 GPUs of this type"


def test_an_address_of_a_calendar_may_be_secret_and_is_not_repeated(tmp_path: Path) -> None:
    slip = "url: http://calendar.example/private-4711/c.ics"
    error = refused(tmp_path, "file: calendars/company.ics", slip)
    assert error.where.endswith(": freeze_calendars.company.url")
    assert "4711" not in str(error)


def test_two_pools_cannot_claim_one_node_group(tmp_path: Path) -> None:
    placements = "{h100: {replicas: 1, gpus_per_node: 1}}"
    other = f"{{class: interactive, model: llama-3.1-8b, placements: {placements}}}"
    second = f"pools:\n  other: {other}"
    error = refused(tmp_path, "pools:", second)
    assert error.where.endswith(": pools.answers.placements.h100")
    assert error.what == "pool `other` has claimed this node group already"
    assert "split the group" in error.mend


def test_one_key_cannot_approve_for_two_people(tmp_path: Path) -> None:
    text = ARTICLE.read_text()
    block = text[text.index("  ada:\n") : text.index("teams:")].rstrip()
    error = refused(tmp_path, block, f"{block}\n{block.replace('  ada:', '  eve:')}\n")
    assert error.where.endswith(": identities.eve.ssh_keys[0]")
    assert error.what == "is a key of `ada` already"


def test_a_private_key_in_place_of_a_public_one_is_not_repeated(tmp_path: Path) -> None:
    slip = 'ssh_keys: ["-----BEGIN OPENSSH PRIVATE KEY-----b3BlbnNzaC1rZXk", '
    error = refused(tmp_path, "ssh_keys: [", slip)
    assert "has to be one SSH public key in a line" in error.what
    assert "b3Blb" not in str(error)


def test_several_slips_are_told_at_once_the_unknown_fields_first(tmp_path: Path) -> None:
    text = ARTICLE.read_text()
    slips = {"pue: 1.3": "pue: 9", "rto_s: 30min": "rto: 30min", "    license: llama3.1\n": ""}
    for old, new in slips.items():
        text = text.replace(old, new)
    (tmp_path / "production.yaml").write_text(text)
    with pytest.raises(BadInput) as raised:
        load_fleet(tmp_path / "production.yaml")
    first, *rest = str(raised.value).splitlines()
    assert first.endswith("use_cases.answers.rto: unknown field")
    assert rest[0] == "  did you mean `rto_s`?"
    assert "sites.main.pue: has to be at most 3, not 9" in rest[1]
    assert "models.llama-3.1-8b.license: is missing" in rest[2]
    assert len(rest) == 3


def test_a_name_that_is_too_long_for_a_label_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "production.yaml"
    long = "a" * 40
    text = ARTICLE.read_text().replace("fleet: article", f"fleet: {long}")
    file.write_text(text.replace("environment: production", f"environment: {long}"))
    with pytest.raises(BadInput, match="is longer than 63 characters"):
        load_fleet(file)


def test_a_region_called_no_is_text(tmp_path: Path) -> None:
    file = tmp_path / "production.yaml"
    file.write_text(
        ARTICLE.read_text().replace("region: eu,", "region: no,").replace("[eu]", "[no]")
    )
    assert load_fleet(file).sites["main"].region == "no"


def test_a_time_of_day_needs_no_quotes(tmp_path: Path) -> None:
    section = f"patching: {{driver: {{every_s: 30d, window_starts: 22:00, {SHIFT}}}}}"
    fleet = load(tmp_path, *extra(section))
    assert [str(cadence.window_starts) for cadence in fleet.patching.values()] == ["22:00:00"]


def test_an_override_of_a_gpu_type_keeps_the_rest_of_the_catalogue(tmp_path: Path) -> None:
    fleet = load(tmp_path, *extra("gpus: {h100-sxm: {power_w: 650}}"))
    assert fleet.gpus["h100-sxm"].power_w == 650
    assert fleet.gpus["h100-sxm"].product == "NVIDIA-H100-80GB-HBM3"
    assert "l40s" in fleet.gpus
