"""Arrays stored as text in a JSON file."""

import base64
import math
import zlib
from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass

from robustcls.core.errors import InputError
from robustcls.results.fields import Integer, Number

if TYPE_CHECKING:
    import numpy as np

LARGEST = 1 << 26  # maximum number of values; a larger array is refused as damaged or malicious


@dataclass
class Array:
    """An array as text: integers, little-endian, compressed with zlib, encoded in base64; value = integer * scale."""

    shape: list[Integer]
    dtype: str  # uint8 or int8
    scale: Number
    data: str

    @classmethod
    def encode(cls, values: "np.ndarray", dtype: str = "int8", scale: float | None = None) -> "Array":
        """Encode values, rounded to multiples of `scale`. By default the largest magnitude becomes 127 (int8) or 255 (uint8).

        Non-finite values become 0.
        """
        import numpy as np

        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)  # JSON has no NaN
        top = 127 if dtype == "int8" else 255
        if scale is None:
            scale = float(np.abs(values).max()) / top or 1.0
        levels = np.clip(np.rint(values / scale), -top if dtype == "int8" else 0, top).astype(dtype)
        packed = base64.b64encode(zlib.compress(levels.tobytes(), 9)).decode()
        return cls(list(values.shape), dtype, scale, packed)

    def decode(self) -> "np.ndarray":
        """Return a float32 array of the original shape. Raises InputError if the data does not match the shape."""
        import numpy as np

        try:
            if self.dtype not in ("uint8", "int8") or any(side < 0 for side in self.shape):
                raise ValueError
            size = math.prod(self.shape)
            if size > LARGEST:
                raise ValueError
            raw = zlib.decompressobj().decompress(base64.b64decode(self.data, validate=True), size + 1)
            return (np.frombuffer(raw, self.dtype).reshape(self.shape) * np.float32(self.scale)).astype(np.float32)
        except (ValueError, zlib.error):
            raise InputError(f"an array of shape {self.shape} does not hold its data: the file is damaged") from None
