"""Types of record fields: strictly typed JSON numbers that are never NaN or infinite."""

from typing import Annotated, Any

from pydantic import Field

SLACK = 1e-6  # tolerance for rounding errors of shares
MOST = 1 << 53  # larger whole numbers are not exact as float64

Integer = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0, le=MOST)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Distance = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=-SLACK, le=1 + SLACK)]
Interval = Annotated[list[Share], Field(min_length=2, max_length=2)]
Ranked = Annotated[list[Number], Field(min_length=2, max_length=2)]  # class, probability
Status = Annotated[str, Field(pattern="^(pass|warn|fail|not_run)$")]


def need(holds: bool, place: str, value: Any, what: str) -> None:
    """Raise ValueError (as pydantic validators must) if a value contradicts other values."""
    if not holds:
        raise ValueError(f"{place}: {value!r:.40} is not {what}")
