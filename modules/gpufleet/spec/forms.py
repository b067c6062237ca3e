"""Forms of text in a fleet file: every pattern, with the words that tell a person what it asks."""

from typing import Final

NAME: Final = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
REVISION_NAME: Final = r"^[a-z0-9]([a-z0-9.-]{0,58}[a-z0-9])?$"
DIGEST: Final = r"^sha256:[0-9a-f]{64}$"
IMAGE: Final = r"^[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)+@sha256:[0-9a-f]{64}$"
IMAGE_SOURCE: Final = r"^[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)+/?$"
TEXT: Final = r"^[^\x00-\x08\x0b-\x1f\x7f]+$"
CURRENCY: Final = r"^[A-Z]{3}$"
VERSION: Final = r"^[0-9]+(\.[0-9A-Za-z_-]+){0,4}$"
PACKAGE_VERSION: Final = r"^[0-9A-Za-z][0-9A-Za-z.+:~_-]{0,79}$"
HOST_NAME: Final = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"
BMC_ENDPOINT: Final = r"^https?://[a-z0-9{}][a-z0-9.{}-]*(:[0-9]{1,5})?$"
BMC_SYSTEM: Final = r"^[A-Za-z0-9._{}-]+$"
ARTIFACT: Final = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[A-Za-z0-9_-][A-Za-z0-9._-]*$"
FLAG: Final = r"^[a-z0-9]+(-[a-z0-9]+)*$"
RECURRENCE: Final = (
    r"^FREQ=(YEARLY|MONTHLY|WEEKLY|DAILY)"
    r"(;(INTERVAL|BYMONTH|BYMONTHDAY|BYYEARDAY|BYWEEKNO|BYDAY|BYHOUR|BYMINUTE|BYSETPOS|WKST)"
    r"=[A-Z0-9,+-]+)*$"
)
EMAIL: Final = r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+\.[^@\s\x00-\x1f]+$"
KMS_KEY: Final = r"^[A-Za-z0-9][A-Za-z0-9:/_-]*$"
RELATIVE_PATH: Final = r"^[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*$"
ABSOLUTE_PATH: Final = r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$"
ENDPOINT: Final = r"^https://[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?$"
ISSUER: Final = r"^https?://[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?$"
KEY_ID: Final = r"^[0-9a-z]{12}$"
BASE_URL: Final = r"^https?://[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*$"
HOST_PORT: Final = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?:[0-9]{1,5}$"
IMAGE_URL: Final = r"^https?://[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)+$"
CALENDAR_URL: Final = (
    r"^(https://[a-z0-9][a-z0-9.-]*|http://(127\.0\.0\.1|localhost))(:[0-9]{1,5})?"
    r"/[A-Za-z0-9._~%!$&'()*+,;=:@/?-]*$"
)
KUBERNETES: Final = r"^1\.[0-9]{1,2}\.[0-9]{1,2}$"
LABEL_KEY: Final = (
    r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
)
LABEL_VALUE: Final = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
SSH_KEY: Final = (
    r"^(sk-)?(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521))(@openssh\.com)? "
    r"[A-Za-z0-9+/]+={0,3}( [^\x00-\x1f]{1,80})?$"
)

MEANINGS: Final = {
    NAME: "a name of small letters, digits and inner dashes, at most 40 characters",
    REVISION_NAME: "a name of small letters, digits, inner dots and dashes, at most 60 characters",
    DIGEST: "a digest: `sha256:` and 64 hexadecimal digits",
    IMAGE: "an image by digest: registry/repository@sha256:...; tags can move",
    IMAGE_SOURCE: "a repository such as ghcr.io/acme/batch, or all below ghcr.io/acme/",
    TEXT: "text without control characters",
    CURRENCY: "an ISO 4217 code such as EUR",
    VERSION: "a version such as 580.95.05",
    PACKAGE_VERSION: "a package's version such as 1.7.24-1~deb12u1",
    HOST_NAME: "a host's name or address",
    BMC_ENDPOINT: "an address such as https://{node}-bmc.example.com",
    BMC_SYSTEM: "a Redfish id such as Self or {node}",
    ARTIFACT: "an object store path s3://BUCKET/REVISION, such as s3://models/llama-3.1-8b",
    FLAG: "a vLLM flag without its dashes, such as kv-cache-dtype",
    RECURRENCE: "an iCalendar recurrence rule such as FREQ=MONTHLY;BYMONTHDAY=-1",
    EMAIL: "an e-mail address",
    KMS_KEY: "a key of the store's key service, such as alias/snapshots",
    RELATIVE_PATH: "a path below the fleet file's folder, such as calendars/company.ics",
    ABSOLUTE_PATH: "an absolute path such as /models/chat-v7",
    ENDPOINT: "an https address without a path, such as https://s3.fra1.example.com",
    ISSUER: "the address of an issuer, such as https://login.example.com/realms/acme",
    KEY_ID: "the id of a key: 12 small letters and digits",
    BASE_URL: "the base address of an API, such as https://api.example.com/v1",
    HOST_PORT: "a host and a port such as 10.20.0.10:6443",
    IMAGE_URL: "an http or https address of a file, such as https://images.example.com/node.qcow2",
    CALENDAR_URL: "an https address of a calendar, such as https://example.com/freezes.ics",
    KUBERNETES: "a Kubernetes version in quotes, such as 1.36.3",
    LABEL_KEY: "a label's key such as gpufleet.dev/node-group",
    LABEL_VALUE: "a label's value: letters, digits, inner dots and dashes, at most 63 characters",
    SSH_KEY: "one SSH public key in a line, such as the content of ~/.ssh/id_ed25519.pub",
}

SECRET_LIKE: Final = frozenset({SSH_KEY, CALENDAR_URL})
"""Where a secret may stand (a private key for a public one, the secret address of a calendar):
errors do not repeat the text."""
