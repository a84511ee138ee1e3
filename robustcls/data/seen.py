"""Whether a model was trained on the images of a folder that it is evaluated on."""

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
    """What can be known of images that were read as a test split of their own; "" where nothing need be said.

    Files are compared byte for byte: an image that was resized or saved anew is another. Where the folder has no split, and so
    nothing says which images are new to a model, it is also said that nothing was found, or cannot be known.

    Args:
        data: the spec of the images, of which only `folder:PATH` is looked at.
        trained: the spec of the data that the model was trained on, as far as it says so.
        unlabelled: that of the images without labels that it was also trained on.
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
    """The files of images without labels."""
    place = folder_of(unlabelled) if unlabelled and unlabelled != REST else None
    return sorted(walk(place[0]).images) if place and place[0].is_dir() else []


def _training_files(trained: str | None) -> list[str]:
    """The files that a model may have been trained on, or selected by; none where it does not say, or its folder is
    not here, or has changed."""
    place = folder_of(trained) if trained else None
    if place is None or not place[0].is_dir():
        return []
    try:
        splits = lay_out(place[0], "train", nested=place[1]).splits
    except InputError:
        return []
    return [path for name in ("train", "val") if name in splits for path in splits[name].paths]
