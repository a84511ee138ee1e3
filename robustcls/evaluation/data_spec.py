"""Choose the data on which a model is evaluated, and how its images are decoded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustcls.core.errors import InputError
from robustcls.data.spec import check_named_by_file, decoded_alike, resized_alike
from robustcls.models.zoo import decoding_of_zoo, is_zoo
from robustcls.training.config import PYTHON


def choose_data(spec: str, meta: Mapping[str, Any], data: str | None) -> tuple[str, str | None, list[str]]:
    """Return the spec of the data: the one given, else that of the model's file, else digits.

    Decoding options that it leaves open are those of training, or those of the zoo that the model comes from.

    Args:
        spec: of the model.
        meta: the metadata of the model's file.
        data: the spec that the user gave.

    Returns:
        The spec; the spec of the model's training data, if its file names it; and lines for the user.

    Raises:
        InputError: if the user gave no data, and the model's file names images given in Python, or code that is not a data set.
    """
    own = meta.get("data")
    if own == PYTHON:  # the images were tensors, which no spec can name
        own = None
        if not data:
            raise InputError(f"{spec} was trained on images given in Python: name what to evaluate it on, as `data`")
    if own and not data:
        check_named_by_file(own, spec)
    chosen = data or own or "digits"
    if own:
        chosen, decoding = decoded_alike(chosen, own)
        whose = f"as in training, from {Path(spec).name}"
    elif is_zoo(spec):
        chosen, decoding = resized_alike(chosen, decoding_of_zoo(spec))
        whose = f"as for the weights of {spec}"
    else:
        decoding = whose = ""
    line = f"images decoded with {decoding}, {whose}: `data=folder:PATH(...)` says otherwise"
    return chosen, own, [line] if decoding else []
