"""When certificates end."""

from pathlib import Path

from cryptography import x509


def ends_at(file: Path) -> float | None:
    """When a PEM file's first certificate ends, seconds since 1970; None where there is none."""
    try:
        return x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return None
