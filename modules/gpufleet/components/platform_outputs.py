"""What the platform stack of a site tells the stacks over it."""

from typing import Any

import pulumi


class PlatformOutputs:
    """Outputs of another stack by StackReference.

    Args:
        stack: its full name.
    """

    def __init__(self, stack: str) -> None:
        self._stack = pulumi.StackReference(stack)

    def get(self, name: str) -> pulumi.Output[str]:
        """One output; in a preview before that stack's first update it is not known yet.

        Raises:
            KeyError: in an update, the stack has no such output.
        """
        if not pulumi.runtime.is_dry_run():
            return self._stack.require_output(name)
        found = self._stack.get_output(name)

        async def known() -> bool:
            return await found.future() is not None

        value: Any = found.future()
        return pulumi.Output(found.resources(), value, known(), found.is_secret())
