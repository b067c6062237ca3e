"""Writing a file that people read: whole or not at all."""

import os
import tempfile
from pathlib import Path

from gpufleet.spec.errors import Retryable


def write_whole(file: Path, text: str) -> bool:
    """Put a file in place; whether it was another one before.

    Whoever reads it meanwhile sees the old one or the new one.

    Raises:
        Retryable: it cannot be written.
    """
    try:
        if file.exists() and file.read_text(encoding="utf-8") == text:
            return False
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=file.parent, prefix=f".{file.name}.", delete=False
        ) as made:
            try:
                made.write(text)
                made.flush()
                os.fsync(made.fileno())
                # As a reviewer's editor would have made it; a temporary file is private.
                Path(made.name).chmod(0o644)
                Path(made.name).replace(file)
            except BaseException:
                Path(made.name).unlink(missing_ok=True)
                raise
    except (OSError, UnicodeDecodeError) as error:
        raise Retryable(f"cannot be written: {error}", where=str(file)) from None
    return True
