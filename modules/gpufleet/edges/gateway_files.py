"""The files that the gateway's workers watch: written whole, read again when they change."""

import os
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from gpufleet.spec.errors import Retryable
from gpufleet.spec.quantities import Spec

S = TypeVar("S", bound=Spec)
_PRIVATE: Final = 0o600


def publish(file: Path, text: str) -> None:
    """Put a file in place; whoever reads it meanwhile sees the old one or the new one.

    Not synced to the disk: each is written again within a second or so, and one that a power cut
    left torn is not taken for good (`read_published`).

    Raises:
        Retryable: it cannot be written; the old one stays.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _PRIVATE)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as made:
                made.write(text)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise Retryable(f"cannot be written: {error}", where=str(file)) from None


def confirm(file: Path) -> None:
    """Say that what a file says is still right: only its time changes.

    Raises:
        Retryable: it cannot be written.
    """
    try:
        os.utime(file)
    except OSError as error:
        raise Retryable(f"cannot be written: {error}", where=str(file)) from None


def read_published(file: Path, kind: type[S]) -> S | None:
    """What a file says; None where it is missing, torn, or not of this kind."""
    try:
        return kind.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def written_at(file: Path) -> float | None:
    """When a file was written, seconds since 1970; None where there is none."""
    try:
        return file.stat().st_mtime
    except OSError:
        return None
