"""Prometheus rules as data: recordings, alerts, and groups of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from gpufleet.core import vocabulary as names

INTERVAL_S: Final = 30
POOL: Final = names.metric_label(names.POOL)
MODEL: Final = names.metric_label(names.MODEL)


class Severity(StrEnum):
    """Whether somebody is woken, or it can wait for the next working day."""

    PAGE = "page"
    TICKET = "ticket"


@dataclass(frozen=True)
class Record:
    """A series that is computed from others.

    Args:
        name: `LEVEL:METRIC:OPERATION`, as Prometheus advises.
        expr: PromQL.
        labels: that it is given.
    """

    name: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """The rule as Prometheus reads it."""
        labels = {"labels": dict(self.labels)} if self.labels else {}
        return {"record": self.name, "expr": self.expr, **labels}


@dataclass(frozen=True)
class Alert:
    """A condition that somebody has to act on.

    Args:
        name: in CamelCase.
        expr: PromQL; each series that it gives is an alert.
        severity: of it.
        runbook: `PAGE#ANCHOR`, a section of `runbooks/alerts-PAGE.md`.
        summary: one sentence that names what is affected; a Prometheus template.
        description: what it means and what to look at; a Prometheus template.
        for_s: how long the condition has to hold, s.
        labels: beside the severity.
    """

    name: str
    expr: str
    severity: Severity
    runbook: str
    summary: str
    description: str
    for_s: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def runbook_path(self) -> str:
        """Path and anchor from the project's root."""
        page, anchor = self.runbook.split("#")
        return f"runbooks/alerts-{page}.md#{anchor}"

    def data(self) -> dict[str, Any]:
        """The rule as Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            **({"for": f"{self.for_s}s"} if self.for_s else {}),
            "labels": {"severity": self.severity.value, **self.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook": self.runbook_path,
            },
        }


@dataclass(frozen=True)
class Group:
    """Rules that are evaluated together, one after the other."""

    name: str
    rules: tuple[Record | Alert, ...]

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """Its alerts alone."""
        return tuple(rule for rule in self.rules if isinstance(rule, Alert))

    def data(self) -> dict[str, Any]:
        """The group as Prometheus reads it."""
        return {
            "name": self.name,
            "interval": f"{INTERVAL_S}s",
            "rules": [rule.data() for rule in self.rules],
        }


def selector(**matched: str) -> str:
    """Label matchers in braces; a value that begins with `!`, `~` or `!~` negates or matches."""
    parts = []
    for label, value in matched.items():
        operator, wanted = "=", value
        for sign, written in (("!~", "!~"), ("~", "=~"), ("!", "!=")):
            if value.startswith(sign):
                operator, wanted = written, value.removeprefix(sign)
                break
        parts.append(f'{label}{operator}"{wanted}"')
    return "{" + ",".join(parts) + "}"
