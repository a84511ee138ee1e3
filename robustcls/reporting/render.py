"""Write evaluations as one HTML file, which is self-contained unless its images are written as separate files."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write, check_writable
from robustcls.results.policy import Policy
from robustcls.results.records import Evaluation


def report(
    evaluation: Evaluation | str | Path | Sequence[Evaluation | str | Path],
    path: str | Path,
    *,
    policy: Policy | str | Path | None = None,
    title: str | None = None,
    redact_images: bool = False,
    sections: Sequence[str] | None = None,
    assets: str | Path | None = None,
) -> Path:
    """Write the report of one evaluation, or of several side by side, as one HTML file, and return its path.

    Args:
        evaluation: an Evaluation, the path of an evaluation file, or a sequence of either.
        path: the file to write.
        policy: thresholds of the verdict: a Policy, or the path of a TOML file.
        title: title of the page.
        redact_images: leave out the pixels and the attribution maps, from the page and from the JSON inside it.
        sections: names of section plug-ins, also dotted ones, in the wanted order; None shows all built-in sections in
            their usual order.
        assets: folder for the images of the gallery, as lossless PNG files named by their content, to which the page
            refers by a relative path; None embeds the images in the page.

    Raises:
        InputError: if a file cannot be read or written, or a section is unknown.

    Example:
        >>> robustcls.report(result, "report.html")
        >>> robustcls.report(["a/evaluation.json", "b/evaluation.json"], "both.html", policy="policy.toml")
    """
    given = [evaluation] if isinstance(evaluation, (Evaluation, str, Path)) else evaluation
    evaluations = [one if isinstance(one, Evaluation) else Evaluation.load(one) for one in given]
    policy = policy if policy is None or isinstance(policy, Policy) else Policy.load(policy)
    path, folder = Path(path), Path(assets) if assets is not None else None
    prefix = None
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"cannot write images to {folder}: it is a file: give a folder with `assets`")
        check_writable(path)
        prefix = quote(Path(os.path.relpath(folder, path.parent)).as_posix())
    from robustcls.reporting.page import compose  # Jinja2 and NumPy load here, not with the package

    text, files = compose(evaluations, policy, title, redact_images, sections, prefix)
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        if folder is not None:
            _write_images(folder, files)
    return path


def render(
    evaluations: Sequence[Evaluation],
    *,
    policy: Policy | None = None,
    title: str | None = None,
    redact_images: bool = False,
    sections: Sequence[str] | None = None,
) -> str:
    """Return the report as text; the same evaluations give the same bytes.

    redact_images: leave out the pixels and the attribution maps, from the page and from the JSON inside it.
    sections: names of section plug-ins, also dotted ones, in the wanted order; None shows all built-in sections in their
    usual order.
    """
    from robustcls.reporting.page import compose

    return compose(evaluations, policy, title, redact_images, sections)[0]


def _write_images(folder: Path, files: dict[str, bytes]) -> None:
    """Add the files that the folder does not have yet; if one cannot be written, remove those that were added."""
    made = not folder.exists()
    written = [folder / name for name in files if not (folder / name).exists()]
    try:
        for file in written:
            with atomic_write(file, "`assets`") as part:
                part.write_bytes(files[file.name])
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise
