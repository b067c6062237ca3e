"""API keys as they are kept and told of; their text is nowhere."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from gpufleet.spec import forms
from gpufleet.spec.quantities import Count, Name, Names, Seconds, Spec

KeyId = Annotated[str, Field(pattern=forms.KEY_ID)]


class KeyRequest(Spec):
    """What a new key shall be allowed."""

    team: Name
    """Whose it is."""
    use_cases: Annotated[Names, Field(min_length=1)]
    """What it may use; each belongs to the team."""
    rate_rpm: Count | None = None
    """Requests in any minute; no limit where it is not given."""
    concurrency_limit: Count | None = None
    """Requests in flight; no limit where it is not given."""
    expires_in_s: Seconds | None = None
    """Time for which it is valid; until it is revoked where it is not given."""


class ApiKey(Spec):
    """A key that was issued."""

    id: KeyId
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", exclude=True, repr=False)]
    """SHA-256 of its whole text."""
    team: Name
    use_cases: Names
    rate_rpm: Count | None
    concurrency_limit: Count | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    rotated_from: KeyId | None = None
    """The key that it replaces."""
    last_used_at: datetime | None = None
    """To about a minute."""

    def is_valid(self, now: datetime) -> bool:
        """Whether it opens anything at a time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class IssuedKey(Spec):
    """A key at the moment of its issue: the only one at which its text is known."""

    key: ApiKey
    text: Annotated[str, Field(repr=False)]
