"""Checks whether a model was trained on the images of a folder that it is evaluated on."""

import os

from robustcls.core.errors import InputError
from robustcls.core.names import quoted
from robustcls.core.options import REST
from robustcls.data.duplicates import find_copies
from robustcls.data.folders.find_splits import find_homes
from robustcls.data.folders.layout import lay_out
from robustcls.data.folders.walk import walk
from robustcls.data.images import Images
from robustcls.data.spec import folder_of


def seen_in_training(data: str, images: Images, trained: str | None, unlabelled: str | None = None) -> str:
    """Return a note on test images of a folder that the model was trained on; "" where there is nothing to report.

    Files are compared byte for byte: an image that was resized or saved again counts as another image. Where the folder has no
    splits, so that nothing tells which images are new to the model, the note also says if no duplicate was found, or that this
    is not known.

    Args:
        data: the spec of the images; only `folder:PATH` is checked.
        images: the images that were read.
        trained: the spec of the data that the model was trained on, where the model records it.
        unlabelled: the spec of the unlabelled images that it was also trained on.
    """
    place = folder_of(data)
    if place is None or images.files is None:
        return ""
    root, nested = place
    undivided = not find_homes(root, nested=nested).splits
    train = [*_training_files(trained), *_loose_files(unlabelled)]
    found = find_copies([os.path.join(root, name) for name in images.files], train) if train else None
    if found is None:
        return "whether the model was trained on any of these images is not known" if undivided else ""
    count, one, other = found
    if count:
        return (
            f"{count} of {len(images)} images are duplicates of images that the model was trained on, such as "
            f"{quoted(os.path.relpath(one, root))} of {quoted(other)}: accuracy on them says nothing of new images"
        )
    return f"none of them is a duplicate of an image in {trained}, which the model was trained on" if undivided else ""


def _loose_files(unlabelled: str | None) -> list[str]:
    """Return the files of the unlabelled images."""
    place = folder_of(unlabelled) if unlabelled and unlabelled != REST else None
    return sorted(walk(place[0]).images) if place and place[0].is_dir() else []


def _training_files(trained: str | None) -> list[str]:
    """Return the training and validation files of a model.

    Empty where the model does not record its data, and where the folder is missing or has changed.
    """
    place = folder_of(trained) if trained else None
    if place is None or not place[0].is_dir():
        return []
    try:
        splits = lay_out(place[0], "train", nested=place[1]).splits
    except InputError:
        return []
    return [path for name in ("train", "val") if name in splits for path in splits[name].paths]
