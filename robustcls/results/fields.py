"""What a field of a record may hold: JSON's numbers, of their own kind, none of them NaN or infinite."""

from typing import Annotated, Any

from pydantic import Field

SLACK = 1e-6  # rounding errors by which a share may leave [0, 1]
MOST = 1 << 53  # beyond, a count is no longer exact as a number

Integer = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0, le=MOST)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Distance = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=-SLACK, le=1 + SLACK)]
Interval = Annotated[list[Share], Field(min_length=2, max_length=2)]
Ranked = Annotated[list[Number], Field(min_length=2, max_length=2)]  # class, probability
Status = Annotated[str, Field(pattern="^(pass|warn|fail|not_run)$")]


def need(holds: bool, place: str, value: Any, what: str) -> None:
    """Raises ValueError, which pydantic expects of a validator, where a value does not fit the values beside it."""
    if not holds:
        raise ValueError(f"{place}: {value!r:.40} is not {what}")
