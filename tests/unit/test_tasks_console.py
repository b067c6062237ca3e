"""What people see where output is no terminal: a line for each change, and plain tables."""

import pytest
from rich.console import Console

from gpufleet.spec.progress import (
    EngineProgress,
    ProcessProgress,
    Progress,
    ReplicaProgress,
    StackProgress,
)
from gpufleet.spec.reports import (
    AnswerRow,
    DriftRow,
    GatewayPoolRow,
    GatewayReport,
    GatewayUseCaseRow,
    PoolRow,
    PreviewReport,
    ProcessRow,
    ResourceChange,
    StackPreview,
    StackResult,
    StatusReport,
    UpReport,
)
from gpufleet.tasks import console
from gpufleet.tasks.gateway_view import show_gateway


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consoles as they are in a pipe, on the streams that pytest captures."""
    monkeypatch.setattr(console, "facts", Console(highlight=False, width=120))
    monkeypatch.setattr(console, "notes", Console(stderr=True, highlight=False))


def pool(ready: int = 4) -> PoolRow:
    return PoolRow(
        site="fra1",
        pool="chat",
        class_="interactive",
        revision="llama-3.3-70b",
        replicas_ready=ready,
        replicas_wanted=4,
        gpus_used=16,
        gpus_free=112,
        nodes=4,
        racks=2,
    )


def stack(state: str, done: int, *slowest: str) -> StackProgress:
    return StackProgress("pools fra1", done, 9, slowest, 3.2, state)


def told(capsys: pytest.CaptureFixture[str], *events: Progress) -> list[str]:
    with console.ProgressView() as view:
        for event in events:
            view(event)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_progress_is_a_line_for_each_change_of_state(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, *[stack("running", done) for done in range(9)], stack("done", 9))
    assert lines == [
        "[    3 s] stack pools fra1: running, 0 of 9 resources",
        "[    3 s] stack pools fra1: done, 9 of 9 resources",
    ]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            EngineProgress("etcd", 2, 7, "building", 61.0, "compiling"),
            "[   61 s] engine 2 of 7, etcd: building: compiling",
        ),
        (ProcessProgress("fra1", "etcd", "ready", 1.4), "[    1 s] site fra1: etcd ready"),
        (
            stack("running", 7, "chat", "small"),
            "[    3 s] stack pools fra1: running, 7 of 9 resources, waiting for chat, small",
        ),
        (
            StackProgress("pools fra1", 0, 0, (), 0.0, "running"),
            "[    0 s] stack pools fra1: running",
        ),
        (ReplicaProgress("fra1", 3, 4, 12.0), "[   12 s] site fra1: 3 of 4 replicas ready"),
    ],
)
def test_each_kind_of_progress_is_told(
    capsys: pytest.CaptureFixture[str], event: Progress, line: str
) -> None:
    assert told(capsys, event) == [line]


def answer() -> AnswerRow:
    return AnswerRow(
        use_case="support-chat",
        route="primary",
        reason="its own pool",
        model="llama-3.3-70b",
        request_id="r-1",
        ttft_s=0.123,
        seconds=0.551,
        text="[simulated] hello",
    )


def test_up_ends_with_a_table_the_changes_and_what_to_do_next(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = StackResult(stack="pools fra1", created=12, same=2, seconds=3.0)
    console.show_up(
        UpReport(
            fleet="sample",
            environment="production",
            pools=[pool()],
            answers=[answer()],
            stacks=[done],
            seconds=61.2,
            next_steps=["./fleet status [all]"],
        )
    )
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "SITE POOL CLASS REVISION READY USED FREE NODES/RACKS"
    assert lines[1] == "fra1 chat interactive llama-3.3-70b 4/4 16 112 4/2"
    assert lines[3] == "USE CASE ROUTE MODEL TTFT SECONDS"
    assert lines[4] == "support-chat primary llama-3.3-70b 0.12 0.55"
    assert lines[6] == "sample production is up after 61 s: 1 stack, resources: 12 created, 2 same"
    assert lines[-2:] == ["Next:", "./fleet status [all]"]


def test_a_preview_is_a_line_for_each_resource_with_its_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes = [
        ResourceChange(action="create", kind="Service", name="chat", fields=[]),
        ResourceChange(
            action="update", kind="Deployment", name="chat", fields=["spec.template[0]"]
        ),
        ResourceChange(action="delete", kind="Service", name="code", fields=[]),
        ResourceChange(action="replace", kind="Job", name="load", fields=["spec"]),
    ]
    stacks = [StackPreview(stack="pools fra1", changes=changes, same=7)]
    console.show_preview(PreviewReport(fleet="sample", environment="staging", stacks=stacks))
    assert capsys.readouterr().out.splitlines() == [
        "stack pools fra1: 4 to change, 7 stay",
        "  + Service chat",
        "  ~ Deployment chat  [spec.template[0]]",
        "  - Service code",
        "  ± Job load  [spec]",
    ]


def test_a_preview_without_changes_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    stacks = [StackPreview(stack="pools fra1", changes=[], same=7)]
    console.show_preview(PreviewReport(fleet="sample", environment="staging", stacks=stacks))
    assert capsys.readouterr().out.endswith("nothing would change\n")


def test_status_names_what_is_not_ready_and_every_difference(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = StatusReport(
        fleet="sample",
        environment="production",
        pools=[pool(ready=3)],
        processes=[
            ProcessRow(site="fra1", process="etcd", state="running", ready=True, pid=7, restarts=0),
            ProcessRow(site="fra1", process="s3", state="exited", ready=False, pid=0, restarts=3),
        ],
        drift=[
            DriftRow(
                site="fra1",
                between="fleet and cluster",
                what="pool chat replicas",
                declared="4",
                actual="3",
            )
        ],
    )
    console.show_status(report)
    lines = capsys.readouterr().out.splitlines()
    assert "processes: 1 of 2 ready" in lines
    assert "  fra1 s3: exited" in lines
    assert "  fra1 (fleet and cluster) pool chat replicas: 4 declared, 3" in lines
    assert lines[-1] == "./fleet up heals what can be healed"


def test_the_gateway_is_shown_by_pool_and_by_use_case_with_what_clients_need(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_gateway(
        GatewayReport(
            fleet="sample",
            environment="production",
            url="https://127.0.0.1:4000",
            authority="/state/gateway/pki/ca.crt",
            file_ages_s={"routes": 1.2, "replicas": 0.4},
            pools=[
                GatewayPoolRow(
                    pool="chat",
                    model="llama-3.3-70b",
                    replicas=4,
                    ready=4,
                    answering=3,
                    running=12,
                    waiting=2,
                    kv_usage=0.5,
                    predicted_queue_s=0.25,
                    ejected=1,
                )
            ],
            use_cases=[
                GatewayUseCaseRow(
                    use_case="agent-assist",
                    pool="chat",
                    fallback="small",
                    in_flight=7,
                    concurrency_limit=160,
                    queue_time_limit_s=0.7,
                    hosted="anthropic claude-haiku-4-5",
                    hosted_spend=12.5,
                    hosted_cap=2500,
                    cache_hit_rate=0.25,
                    cache_saved=1.5,
                )
            ],
        )
    )
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "POOL MODEL READY ANSWERING RUNNING WAITING KV QUEUE EJECTED"
    assert lines[1] == "chat llama-3.3-70b 4/4 3/4 12 2 50% 0.25 s 1"
    assert lines[4] == (
        "agent-assist chat small 7/160 0.7 s anthropic claude-haiku-4-5 12.50/2500 25% 1.5"
    )
    assert lines[-2] == "the workers' view is this old: routes 1 s, replicas 0 s"
    assert lines[-1] == "clients: https://127.0.0.1:4000, trusting /state/gateway/pki/ca.crt"
