"""`./fleet`: invoke's own program, with our exit codes and tab completion for `fleet`."""

import difflib
import os
import sys

from invoke import Program
from invoke.exceptions import Exit, ParseError

from gpufleet.tasks import ROOT

_BAD_INPUT = 2
_INTERRUPTED = 130


class Fleet(Program):
    """Runs the tasks of the project that this file is in, from any folder."""

    def parse_tasks(self) -> None:
        """Parse the command line; a slip is bad input, and is told with the nearest name."""
        try:
            super().parse_tasks()
        except ParseError as error:
            raise Exit(f"fleet: {self._explained(error)}", code=_BAD_INPUT) from None

    def _explained(self, error: ParseError) -> str:
        message = str(error)
        name = message.split("'")[1] if message.count("'") > 1 else ""
        if error.context and error.context.name:
            valid = [f"--{flag}" for flag in error.context.inverse_flags]
            valid += list(error.context.flags)
            advice = f"./fleet {error.context.name} --help tells its options"
        else:
            valid = list(self.collection.task_names)
            advice = "./fleet --list tells the tasks"
        near = difflib.get_close_matches(name, valid, n=1)
        return f"{message} " + (f"Did you mean {near[0]}?" if near else f"({advice})")


def main() -> None:
    """Run, and end with a documented exit code."""
    program = Fleet(
        version="0.1.0", name="fleet", binary="fleet", binary_names=["fleet", "./fleet"]
    )
    try:
        program.run(["fleet", "--search-root", str(ROOT), *sys.argv[1:]])
    except KeyboardInterrupt:
        sys.stderr.write("\nfleet: interrupted; the next run goes on from here\n")
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has enough; do not fail again while the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
