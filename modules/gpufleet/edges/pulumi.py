"""The Pulumi CLI: stacks of this project, on a file backend, without a network."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gpufleet.edges.engines import Binaries
from gpufleet.edges.fence_file import demand_newest
from gpufleet.edges.pulumi_home import prepare_home, replace_link
from gpufleet.edges.settled_stacks import SettledStacks
from gpufleet.edges.stack_events import EventReader, OnProgress
from gpufleet.edges.stack_states import Stack, StackStates
from gpufleet.edges.workspace import PASSPHRASE_VARIABLE, EnvironmentDir, Workspace
from gpufleet.spec.errors import Failed, FleetError, PolicyRefused, Retryable
from gpufleet.spec.fence import Fence
from gpufleet.spec.reports import StackPreview, StackResult

FREEZE_MARK: Final = "gpufleet-refused-by-freeze: "
_POLL_S: Final = 0.1
_PARALLEL: Final = "64"
_EVENT_LOG: Final = {"PULUMI_DEBUG_COMMANDS": "true"}
"""Makes the CLI take `--event-log`, as Pulumi's own Automation API does."""
_GARBAGE_PERCENT: Final = "400"
"""Go collects its garbage at this growth: memory of an update for a tenth of its processor time."""
_INTERRUPT_WITHIN_S: Final = 60
_TRACEBACK: Final = "Traceback (most recent call last):"


class PulumiCli:
    """Runs Pulumi for the stacks of one environment.

    Args:
        workspace: the clone with the stacks' programs.
        state: where the backend, the passphrase and Pulumi's own folder are.
        binaries: the engines.
        variables: from `variables_for`.
    """

    def __init__(
        self,
        workspace: Workspace,
        state: EnvironmentDir,
        binaries: Binaries,
        variables: Mapping[str, str],
    ) -> None:
        self._workspace = workspace
        self._state = state
        self._binaries = binaries
        self._variables = {"GOGC": _GARBAGE_PERCENT, **os.environ, **variables, **_EVENT_LOG}
        self._states = StackStates(state)
        self._settled = SettledStacks(state)
        self._interrupted = threading.Event()

    def interrupt(self) -> None:
        """Let every update that is under way end its running steps and write its state."""
        self._interrupted.set()

    def prepare(self) -> None:
        """Make what every command needs: the passphrase, and the provider where Pulumi looks."""
        self._state.make()
        self._binaries.link_into(self._workspace.state / "bin")
        replace_link(self._binaries.files / "charts", self._workspace.state / "charts")
        if not self._state.passphrase_file.exists():
            descriptor = os.open(
                self._state.passphrase_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
            )
            with os.fdopen(descriptor, "w") as file:
                file.write(_given_passphrase() or secrets.token_urlsafe(32))
        prepare_home(self._state.pulumi_home, self._binaries)

    def ensure(self, stack: Stack, fleet_file: Path) -> None:
        """Make the stack and its configuration, which only points to fleet file and site."""
        file = self._config_file(stack)
        root = self._workspace.root
        shown = fleet_file.relative_to(root) if fleet_file.is_relative_to(root) else fleet_file
        exists = self._states.file(stack).exists()
        if exists and file.exists() and f"gpufleet:fleet: {shown}\n" in file.read_text():
            return
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        salt = self._salt(stack) if exists else ""
        shard = f"  gpufleet:shard: {stack.shard}\n" if stack.shard > 1 else ""
        file.write_text(
            f"# Written by ./fleet up. Everything else is declared in the fleet file.\n"
            f"{salt}config:\n  gpufleet:fleet: {shown}\n  gpufleet:site: {stack.site}\n{shard}"
        )
        if not exists:
            self._run(stack, ["stack", "init", "--non-interactive", "--no-select"])

    def up(
        self,
        stack: Stack,
        on_progress: OnProgress,
        fence: Fence | None = None,
        inputs: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> StackResult:
        """Update one stack; nothing is run where that would do nothing.

        Args:
            stack: which.
            on_progress: told while it goes on.
            fence: of the lease that allows it; one that is out of date is refused.
            inputs: a digest of what its program reads; without it an update is always run.
            variables: further ones, for this update alone.

        Raises:
            PolicyRefused: a freeze.
            Retryable: another update holds the stack.
            Failed: the update failed; what it did is kept, and the next one goes on.
        """
        if fence:
            demand_newest(self._state.pulumi_state, fence)
        self._states.release_dead_lock(stack)
        if inputs and self._settled.is_settled(stack, inputs):
            return StackResult(stack=stack.shown, same=self._count(stack), seconds=0.0)
        arguments = ["up", "--yes", "--skip-preview", "--suppress-outputs"]
        return self._update(stack, arguments, on_progress, variables).result()

    def remember(self, stack: Stack, inputs: str) -> None:
        """The stack's last update succeeded, and its program has read these inputs."""
        self._settled.remember(stack, inputs)

    def preview(
        self, stack: Stack, on_progress: OnProgress, inputs: str = "", *, refreshed: bool = False
    ) -> StackPreview:
        """What `up` would change; `inputs` as there.

        With `refreshed`, beside what the cluster has and not what the state says that it has.
        """
        if inputs and self._settled.is_settled(stack, inputs):
            return StackPreview(stack=stack.shown, changes=[], same=self._count(stack))
        arguments = ["preview", *(["--refresh"] if refreshed else [])]
        return self._update(stack, arguments, on_progress).preview()

    def refresh(self, stack: Stack, on_progress: OnProgress) -> StackResult:
        """Bring the state to what the cluster has."""
        self._states.release_dead_lock(stack)
        arguments = ["refresh", "--yes", "--skip-preview", "--suppress-outputs"]
        return self._update(stack, arguments, on_progress).result()

    def _count(self, stack: Stack) -> int:
        """The resources that Pulumi would call the same."""
        return sum(not each.get("external") for each in self._states.resources(stack))

    def _update(
        self,
        stack: Stack,
        arguments: list[str],
        on_progress: OnProgress,
        variables: Mapping[str, str] | None = None,
    ) -> EventReader:
        with tempfile.TemporaryDirectory(prefix="gpufleet-") as folder:
            log, output = Path(folder, "events"), Path(folder, "output")
            command = self._command(
                stack,
                [
                    *arguments,
                    "--non-interactive",
                    "--color=never",
                    f"--parallel={_PARALLEL}",
                    f"--event-log={log}",
                ],
            )
            events = EventReader(log, stack.shown, on_progress)
            with output.open("wb") as sink:
                # Its own session: Ctrl-C reaches it once, from us, and it can write its state.
                process = subprocess.Popen(
                    command,
                    cwd=self._folder(stack),
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    env={**self._variables, **(variables or {})},
                    start_new_session=True,
                )
            try:
                self._follow(process, stack, events)
            except BaseException:
                _interrupt(process)
                raise
            events.finish("failed" if process.returncode else "done")
            if process.returncode:
                raise _failure(stack, events.diagnostics, output.read_text(errors="replace"))
        return events

    def _follow(self, process: subprocess.Popen[bytes], stack: Stack, events: EventReader) -> None:
        while process.poll() is None:
            if self._interrupted.wait(_POLL_S):
                raise Failed("interrupted", where=f"stack {stack.shown}")
            events.read()

    def _run(self, stack: Stack, arguments: list[str]) -> str:
        result = subprocess.run(
            self._command(stack, arguments),
            cwd=self._folder(stack),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._variables,
            check=False,
        )
        if result.returncode:
            raise _failure(stack, [], result.stderr or result.stdout)
        return result.stdout

    def _command(self, stack: Stack, arguments: list[str]) -> list[str]:
        return [str(self._binaries.path("pulumi")), *arguments, f"--stack={stack.name}"]

    def _folder(self, stack: Stack) -> Path:
        return self._workspace.stack_folder(stack.project)

    def _config_file(self, stack: Stack) -> Path:
        return self._workspace.stack_config(stack.project, stack.name)

    def _salt(self, stack: Stack) -> str:
        """The passphrase's salt, for a configuration that was lost while the state was kept."""
        checkpoint = json.loads(self._states.file(stack).read_text(encoding="utf-8"))["checkpoint"]
        provider = (checkpoint.get("latest") or {}).get("secrets_providers") or {}
        salt = (provider.get("state") or {}).get("salt")
        return f"encryptionsalt: {salt}\n" if salt else ""


def _given_passphrase() -> str:
    """The passphrase that was made elsewhere, as on a cluster; empty where none was."""
    given = os.environ.get(PASSPHRASE_VARIABLE)
    return (
        Path(given).read_text(encoding="utf-8").strip() if given and Path(given).is_file() else ""
    )


def pending_changes(stack: str) -> StackPreview:
    """What an update of the stack in the working folder would change; called by its own program.

    A preview takes no lock, so it can run inside the update that asks.
    """
    with tempfile.TemporaryDirectory(prefix="gpufleet-") as folder:
        log = Path(folder, "events")
        arguments = ["preview", "--non-interactive", f"--stack={stack}", f"--event-log={log}"]
        result = subprocess.run(
            ["pulumi", *arguments],  # noqa: S607 - the one that runs this program is first on PATH
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **_EVENT_LOG},
        )
        if result.returncode:
            raise Failed(f"cannot tell what would change: {result.stderr.strip()[-300:]}")
        events = EventReader(log, stack, lambda _: None)
        events.read()
        return events.preview()


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Let Pulumi end its running steps and write its state; end it if it does not."""
    try:
        process.send_signal(signal.SIGINT)
        process.wait(_INTERRUPT_WITHIN_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def _cause(diagnostic: str) -> str:
    """A diagnostic as people need it: of a program's traceback only what was raised."""
    if _TRACEBACK not in diagnostic:
        return diagnostic
    lines = diagnostic.rsplit(_TRACEBACK, maxsplit=1)[-1].splitlines()
    raised = [at for at, line in enumerate(lines) if line.strip() and not line.startswith(" ")]
    return "its program failed: " + "\n".join(lines[raised[-1] :] if raised else lines[-1:])


def _failure(stack: Stack, diagnostics: list[str], output: str) -> FleetError:
    where = f"stack {stack.shown}"
    for text in (*diagnostics, output):
        if FREEZE_MARK in text:
            refusal = json.loads(text.split(FREEZE_MARK, 1)[1].splitlines()[0])
            return PolicyRefused(refusal["error"], where=refusal["where"], mend=refusal["mend"])
    if "the stack is currently locked" in output:
        return Retryable("an update is under way", where=where, mend="wait for it")
    if "no space left on device" in output:
        free = shutil.disk_usage("/").free / 2**30
        return Retryable(f"the disk is full ({free:.1f} GiB free)", where=where, mend="free some")
    lines = [_cause(text) for text in diagnostics]
    lines = lines or [line for line in output.splitlines() if line.strip()][-5:]
    shown = list(dict.fromkeys(line.strip()[:600] for line in lines))[:5]
    return Failed(
        shown[0] if shown else "the update failed",
        where=where,
        mend="\n  ".join([*shown[1:], "what was done is kept: mend the cause, run it again"]),
    )
