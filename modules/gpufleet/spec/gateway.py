"""What the gateway is told: the fleet file's part of it, and the files between its processes.

`routes.json` says what was declared, `replicas.json` who serves now and how busy they are,
`keys.json` who may ask. One process writes each, whole; the gateway's workers read them again when
they change, and go on with the last ones that were good.
"""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from gpufleet.spec import forms
from gpufleet.spec.quantities import (
    Count,
    Digest,
    Integer,
    Money,
    Name,
    Names,
    RevisionName,
    Seconds,
    Spec,
    Text,
    TokenCount,
    Whole,
)
from gpufleet.spec.serving import DataClass, ServingClass

ROUTES_FILE = "routes.json"
REPLICAS_FILE = "replicas.json"
KEYS_FILE = "keys.json"


class Oidc(Spec):
    """An issuer whose tokens the gateway accepts beside its own keys."""

    issuer: Annotated[str, Field(pattern=forms.ISSUER, max_length=200)]
    """As the tokens' `iss` says it; it tells its keys by OpenID Connect Discovery."""
    audience: Text
    """What the tokens' `aud` has to hold."""
    team_claim: Text = "team"
    """Claim with the name of the team; its use cases are what the token may use."""
    algorithms: Annotated[
        tuple[Literal["RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA"], ...],
        Field(min_length=1),
    ] = ("RS256", "ES256")
    """Signatures that are accepted; never a shared secret."""


class Gateway(Spec):
    """How the gateway of an environment runs."""

    workers: Annotated[Integer, Field(ge=1, le=64)] = 2
    """Processes that answer; each keeps a core busy at about 40 requests/s."""
    replicas: Annotated[Integer, Field(ge=1, le=100)] = 1
    """Pods of the gateway at each site; limits and caps are shared out evenly among all."""
    body_limit_bytes: Annotated[Integer, Field(ge=1024, le=2**30)] = 4 * 2**20
    """Longest body of a request."""
    body_time_limit_s: Seconds = 20.0
    """Longest time that a client may take to send a request."""
    oidc: Oidc | None = None


class HostedRoute(Spec):
    """A hosted API that may answer for one use case."""

    provider: Text
    model: Text
    url: str | None
    """Base address where it is not the provider's own."""
    monthly_cap: Money
    input_per_million: Decimal
    """Price of a million prompt tokens, in the fleet's currency."""
    output_per_million: Decimal
    """Price of a million tokens of answers, in the fleet's currency."""


class Route(Spec):
    """Where the requests of one use case go, in which order, and within which limits."""

    team: Name
    class_: Annotated[ServingClass, Field(alias="class")]
    data_class: DataClass
    residency: Names
    """Regions in which its data may be processed."""
    pool: Name
    """The pool that answers first."""
    fallback: Name | None
    """The smaller model's pool."""
    hosted: HostedRoute | None
    """None where its data class does not allow one, whatever was declared."""
    summary_tokens: TokenCount | None
    """Longest answer in summary mode; None where the use case has none."""
    queue_time_limit_s: Seconds
    """Predicted time in queue at which requests overflow."""
    concurrency_limit: Count | None
    """Requests in flight over all replicas and pools; None for no limit."""
    output_max_tokens: TokenCount
    """The longest answer that is allowed."""
    timeout_s: Seconds
    """Longest time that a request may take in all."""
    ttft_p95_s: Seconds
    p95_s: Seconds
    cache_ttl_s: Seconds | None
    """How long an answer may be given again to the same key; None for never."""
    audit_required: bool
    """Whether a request that cannot be recorded is refused."""
    content_kept: bool
    """Whether its prompts and answers are recorded, not only their hashes."""


class PoolRoute(Spec):
    """What the gateway knows of one pool."""

    model: RevisionName
    """The served model's name at the engines."""
    digest: Digest
    """Of the revision's artifact."""
    class_: Annotated[ServingClass, Field(alias="class")]
    concurrency_limit: Count
    """Requests in flight at one replica, as its engine takes them."""
    promised_at: Count
    """Requests in flight at one replica up to which its use cases' p95 holds; what is above counts
    as waiting, for it makes all others late."""
    queue_limit: Whole | None
    """Requests that wait at one replica; None for no limit."""
    cost_per_million_tokens: Decimal | None
    """Of prompt and answer together, in the fleet's currency; None where it is not known."""
    time_in_service_s: float
    """Time that a request takes once it runs, s, as planned: what a queue is predicted with until
    enough was measured."""


class Routes(Spec):
    """`routes.json`: what follows from the fleet file and its plan."""

    fleet: Name
    environment: Name
    currency: str
    hosted_monthly_cap: Money | None
    """Most that all hosted APIs together may cost in a month."""
    gateway: Gateway
    use_cases: dict[Name, Route]
    pools: dict[Name, PoolRoute]
    regions: dict[Name, str]
    """Region by site."""
    pods: Annotated[Integer, Field(ge=1)] = 1
    """Pods of the gateway over all sites; each has an equal part of limits and caps."""


class Replica(Spec):
    """One replica of a pool, as the gateway's control process saw it last."""

    name: str
    """Of its (leader's) pod."""
    uid: str
    site: Name
    url: str
    """Base address of its engine, such as `http://127.23.4.5:8000`."""
    ready: bool
    """Whether Kubernetes says so and it is not going away."""
    answering: bool
    """Whether its metrics could be read lately."""
    running: float = 0
    """Requests that it works on."""
    waiting: float = 0
    """Requests in its queue."""
    kv_usage: float = 0
    """Share of its KV cache in use, 0 to 1."""
    finished_rps: float = 0
    """Requests that it has finished a second, lately."""
    queue_time_s: float = 0
    """Mean time in queue of requests that began lately, s."""
    stalled_s: float = 0
    """How long it has had work and given no token, s; 0 for an engine that moves or is idle."""
    seen_at: float = 0
    """When its metrics were read last, seconds since 1970."""


class Replicas(Spec):
    """`replicas.json`: who serves now."""

    at: float
    """When it was written, seconds since 1970."""
    pools: dict[Name, list[Replica]]


class Key(Spec):
    """One API key, without what opens it."""

    id: Annotated[str, Field(pattern=forms.KEY_ID)]
    hash: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the key's whole text: 256 random bits need no slow hash."""
    team: Name
    use_cases: Names
    """What it may use; each belongs to its team."""
    rate_rpm: Count | None
    """Requests in any minute; None for no limit."""
    concurrency_limit: Count | None
    """Requests in flight; None for no limit."""
    expires_at: float | None
    """Seconds since 1970; None for never."""


class Keys(Spec):
    """`keys.json`: every key that is valid; one that was revoked is not here."""

    at: float
    """When its keys changed last, seconds since 1970; the file's own time says since when it is
    known that they are still these."""
    keys: list[Key]


class AuditRecord(Spec):
    """One request, as it is recorded; a line of JSON in the order of these fields."""

    writer: str
    """The gateway process that recorded it, or a batch, a dot, and the data class; each has a chain
    of its own, so that retention can end for one class and not for another."""
    sequence: int
    """1, 2, 3 ... in a writer's chain."""
    previous: str
    """SHA-256 of the line before it, without its end; 64 zeros for the first."""
    request_id: str
    at: str
    """When the request came, ISO 8601 in UTC."""
    key_id: str
    """Empty where nobody was recognized; `oidc:SUBJECT` for a token."""
    team: str
    use_case: str
    """Empty where the request named none that exists."""
    model: str
    digest: str
    """Of the revision that answered; empty for a hosted one, or where nothing answered."""
    route: str
    """primary, fallback, hosted, summary, cache, none, batch, or gap: requests that were not
    recorded."""
    reason: str
    """Why it went there."""
    replica: str
    status: int
    """The HTTP status; 499 where the client went away, 0 where it is not known."""
    error: str
    """Kind of the error; empty where there was none."""
    prompt_tokens: int
    output_tokens: int
    ttft_s: float | None
    """Until the first token was sent."""
    latency_s: float
    cost: str
    """In the fleet's currency, a decimal number."""
    prompt_hash: str
    """HMAC-SHA-256 with the environment's salt; empty where there was no prompt."""
    answer_hash: str
    prompt: str | None = None
    """Only where the retention of its data class keeps content."""
    answer: str | None = None
