"""A host's power, off and on by its management controller: what some firmware wants to run."""

import time

from gpufleet.core.patching.firmware import ON, SHUTDOWN, resets_for
from gpufleet.flows.firmware_line import FirmwareOrder, Line, Login, until
from gpufleet.spec.errors import Failed


def power_cycle(order: FirmwareOrder, login: Login) -> list[str]:
    """Put a host's power off and on, and wait until it is on.

    The host is expected to be drained, and no firmware to be on its way into it.

    Args:
        order: whose host; `within_s` is the longest time for each step.
        login: who may do so.

    Returns:
        The resets that were sent.

    Raises:
        Failed: the controller has no such reset, or the power does not follow.
        Retryable: the controller does not answer.
    """
    with Line(order, login) as line:
        power = line.ask(lambda controller: controller.power(order.system))
        kinds = resets_for(line.ask(lambda controller: controller.resets(order.system)), power)
        if not kinds:
            raise Failed(
                "the controller takes neither PowerCycle nor GracefulShutdown and On",
                where=order.endpoint,
                mend="declare another activation in the fleet file, and cycle the power by hand",
            )
        for kind in kinds:
            _step(order, line, kind)
    return kinds


def _step(order: FirmwareOrder, line: Line, kind: str) -> None:
    line.ask(lambda controller: controller.reset(order.system, kind))
    wanted = "Off" if kind == SHUTDOWN else ON

    def look() -> bool | None:
        return line.ask(lambda controller: controller.power(order.system)) == wanted or None

    if until(look, time.monotonic() + order.within_s) is None:
        raise Failed(
            f"the host's power is not {wanted} {order.within_s:.0f} s after {kind}",
            where=order.endpoint,
            mend="see the host's console; its new firmware runs once its power was off and on",
        )
