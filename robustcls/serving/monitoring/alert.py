"""One alerting rule."""

from dataclasses import dataclass
from typing import Any

from robustcls.serving.monitoring.target import Target

PAGE, TICKET = "page", "ticket"


@dataclass(frozen=True)
class Alert:
    """An alerting rule."""

    name: str
    severity: str  # page: needs action at once; ticket: can wait
    hold: str  # how long the condition must be true before the alert fires; "" for at once
    expr: str
    summary: str
    description: str

    def rule(self, target: Target) -> dict[str, Any]:
        """Return the rule in the format of Prometheus."""
        return {
            "alert": self.name,
            "expr": self.expr,
            **({"for": target.span(self.hold)} if self.hold else {}),
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "description": self.description},
        }
