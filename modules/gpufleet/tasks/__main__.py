"""`./fleet`: invoke's own program, with our exit codes and tab completion for `fleet`."""

import difflib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from invoke import Program
from invoke.exceptions import Exit, ParseError

from gpufleet.tasks import ROOT

_BAD_INPUT = 2
_INTERRUPTED = 130
_ARGUMENT = re.compile(r"<Argument: ([^\s>]+)[^>]*>")
_UNKNOWN = re.compile(r"No idea what '(.*)' is!")


class Fleet(Program):
    """Runs the tasks of the project that this file is in, from any folder."""

    def parse_tasks(self) -> None:
        """Parse the command line; a slip is bad input, and is told with the nearest name."""
        with self._slips():
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        """Help, list and completion; a slip in their own values is bad input too."""
        with self._slips():
            super().parse_cleanup()

    def no_tasks_given(self) -> None:
        """Answer a bare `./fleet` with its tasks, not with invoke's options."""
        self.list_root, self.list_format, self.list_depth = None, "flat", 0
        self.list_tasks()
        sys.stdout.write("./fleet TASK --help tells a task's options; start with ./fleet up\n")
        raise Exit(code=0)

    def execute(self) -> None:
        """Run the tasks; Ctrl-C is one line and its own exit code (invoke would make it 1)."""
        try:
            super().execute()
        except KeyboardInterrupt:
            message = "\nfleet: interrupted; the next run goes on from here"
            raise Exit(message, code=_INTERRUPTED) from None

    @contextmanager
    def _slips(self) -> Iterator[None]:
        try:
            yield
        except ParseError as error:
            raise Exit(f"fleet: {self._explained(error)}", code=_BAD_INPUT) from None
        except ValueError as error:
            # A flag that wants a number: invoke converts what it is given as it reads it.
            message = _no_number(str(error), sys.argv[1:])
            raise Exit(f"fleet: {message}", code=_BAD_INPUT) from None

    def _explained(self, error: ParseError) -> str:
        context = error.context if error.context and error.context.name else None
        unknown = _UNKNOWN.search(str(error))
        if unknown is None:
            message = _ARGUMENT.sub(r"`--\1`", str(error)).rstrip("!")
            near = []
        else:
            name = unknown[1]
            kind = "option" if name.startswith("-") else "task"
            message = f"there is no {kind} `{name}`"
            valid = list(context.flags) if context and kind == "option" else self._task_names()
            near = difflib.get_close_matches(name, valid, n=1)
        if near:
            return f"{message}; did you mean `{near[0]}`?"
        if context:
            return f"{message}; `./fleet {context.name} --help` tells its options"
        return f"{message}; `./fleet --list` tells the tasks"

    def _task_names(self) -> list[str]:
        return list(self.collection.task_names)


def _no_number(said: str, words: list[str]) -> str:
    """Which flag has what is no number."""
    value = said.rpartition(": ")[2].strip("'")
    for flag, follows in zip(words, [*words[1:], ""], strict=True):
        name, _, joined = flag.partition("=")
        if flag.startswith("-") and value in {joined, follows}:
            return f"`{value:.40}` is not a whole number ({name})"
    return said


def _asked(words: list[str]) -> list[str]:
    """The command line, with `TASK --help` as `--help TASK`.

    A task that needs a value without a flag would take `--help` for it.
    """
    if len(words) > 1 and not words[0].startswith("-") and {"--help", "-h"} & {*words[1:]}:
        return ["--help", words[0]]
    return words


def main() -> None:
    """Run, and end with a documented exit code."""
    program = Fleet(
        version="0.1.0", name="fleet", binary="fleet", binary_names=["fleet", "./fleet"]
    )
    try:
        try:
            program.run(["fleet", "--search-root", str(ROOT), *_asked(sys.argv[1:])])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has enough; do not fail again while the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
