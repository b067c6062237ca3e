"""One login to a host's management controller, for all that is asked of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

from gpufleet.core.patching.firmware import expression_of
from gpufleet.edges.redfish import Controller
from gpufleet.spec.errors import Retryable
from gpufleet.spec.firmware import Software
from gpufleet.spec.patching import Part

_FIRST_POLL_S: Final = 0.25
_POLL_S: Final = 2.0

T = TypeVar("T")


@dataclass(frozen=True)
class FirmwareOrder:
    """What a host is to have."""

    endpoint: str
    """Of its controller."""
    system: str
    """Redfish id of the host's ComputerSystem."""
    part: Part
    version: str
    image: Path
    """The vendor's file; `IMAGE.sha256` beside it holds its digest, as sha256sum writes it."""
    authority: Path | None = None
    """Who signed the controller's certificate."""
    entries: str = ""
    """Regular expression for the ids of the inventory's entries, in place of the usual ones."""
    rehearsed: bool = False
    """Whether going back to an older version was tried."""
    activation: str = ""
    """What makes it run, `Activation`; the part's usual way where it is empty."""
    within_s: float = 3600
    """Longest time for the update with the controller's restart, s."""
    settles_within_s: float = 60
    """How long nothing may change before an update that the controller forgot has ended, s."""
    staged_after_s: float = 300
    """How long a task may be pending before it is taken for one that waits for a reset, s."""

    def read(self, controller: Controller) -> list[Software]:
        """The entries of the inventory that the part has."""
        return controller.firmware(expression_of(self.part, self.system, self.entries))


@dataclass(frozen=True)
class Login:
    """Who updates firmware."""

    user: str
    password: str

    def __repr__(self) -> str:
        # A trace never shows a password.
        return f"Login({self.user!r})"


class Line:
    """A controller that is logged in to once, and again only where it was silent.

    A login for each question would fill the controller's few sessions, and its log.
    """

    def __init__(self, order: FirmwareOrder, login: Login) -> None:
        self._order, self._login = order, login
        self._controller: Controller | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()

    def ask(self, question: Callable[[Controller], T]) -> T:
        """The answer to a question.

        Raises:
            BadInput: the controller refuses the login.
            Retryable: it does not answer; the next question logs in anew.
        """
        try:
            return question(self._open())
        except Retryable:
            self._hang_up()
            raise

    def _open(self) -> Controller:
        if self._controller is None:
            order, login = self._order, self._login
            self._controller = Controller(
                order.endpoint, login.user, login.password, order.authority
            )
        return self._controller

    def _hang_up(self) -> None:
        if self._controller is not None:
            controller, self._controller = self._controller, None
            controller.close()


def until(look: Callable[[], T | None], deadline: float) -> T | None:
    """The first answer; a controller that does not answer is asked again until the deadline."""
    pause_s = _FIRST_POLL_S
    while True:
        silence: Retryable | None = None
        try:
            found = look()
        except Retryable as error:
            found, silence = None, error
        if found is not None:
            return found
        if time.monotonic() > deadline:
            if silence is not None:
                raise silence
            return None
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _POLL_S)
