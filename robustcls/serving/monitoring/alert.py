"""One alerting rule."""

from dataclasses import dataclass
from typing import Any

from robustcls.serving.monitoring.target import Target

PAGE, TICKET = "page", "ticket"


@dataclass(frozen=True)
class Alert:
    """An alerting rule. severity: page for what cannot wait, ticket for what can. hold: how long it must be so."""

    name: str
    severity: str
    hold: str
    expr: str
    summary: str
    description: str

    def rule(self, target: Target) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            **({"for": target.span(self.hold)} if self.hold else {}),
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "description": self.description},
        }
