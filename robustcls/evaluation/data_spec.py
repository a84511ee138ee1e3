"""Which data a model is evaluated on, and how its images are decoded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustcls.core.errors import InputError
from robustcls.data.spec import check_named_by_file, decoded_alike, resized_alike
from robustcls.models.zoo import decoding_of_zoo, is_zoo
from robustcls.training.config import PYTHON


def choose_data(spec: str, meta: Mapping[str, Any], data: str | None) -> tuple[str, str | None, list[str]]:
    """The spec of the data: the one given, else that of the model's file, else digits.

    What it leaves open of decoding is as in training, or as in the zoo that the model comes from.

    Args:
        spec: of the model.
        meta: what its file says of itself.
        data: what the user named.

    Returns:
        The spec, that of the data that the model was trained on where its file names it, and what is said.

    Raises:
        InputError: where the file names images given in Python, or code that is no data set, and the user named none.
    """
    own = meta.get("data")
    if own == PYTHON:  # no spec names the images
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
    said = f"images decoded with {decoding}, {whose}: `data=folder:PATH(...)` says otherwise"
    return chosen, own, [said] if decoding else []
