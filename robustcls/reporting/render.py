"""Evaluations in, one HTML file out: self-contained, unless its images are to be files of their own."""

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
        evaluation: an Evaluation, a file that holds one, or several of either.
        path: the file to write.
        policy: thresholds of the verdict: a Policy, or a TOML file.
        title: of the page.
        redact_images: leave out the pixels and the attribution maps, from the page and from the JSON inside it.
        sections: names of section plug-ins in the order wanted, dotted ones too; None takes all of ours in their own order.
        assets: a folder for the images of the gallery, as lossless PNG files named by their content, to which the page
            refers by a relative path; None puts them into the page.

    Raises:
        InputError: where a file cannot be read or written, or a section is unknown.

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
            raise InputError(f"cannot write images to {folder}: it is a file: name a folder with `assets`")
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
    """The report as text; the same evaluations give the same bytes.

    sections: names of section plug-ins in the order wanted, dotted ones too; None takes all of ours in their own order.
    redact_images: leaves out the pixels and the attribution maps, from the page and from the JSON inside it.
    """
    from robustcls.reporting.page import compose

    return compose(evaluations, policy, title, redact_images, sections)[0]


def _write_images(folder: Path, files: dict[str, bytes]) -> None:
    """Adds the files that the folder lacks; where one cannot be written, those added are taken out again."""
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
