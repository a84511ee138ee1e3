"""Evaluations in, one HTML file out: self-contained, unless its images are to be files of their own."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
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
            raise InputError(f"cannot write images to {folder}: it is a file: name a folder with --assets")
        check_writable(path)
        prefix = quote(Path(os.path.relpath(folder, path.parent)).as_posix())
    text, files = _compose(evaluations, policy, title, redact_images, sections, prefix)
    with _added(folder, files), atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
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
    return _compose(evaluations, policy, title, redact_images, sections, None)[0]


def _compose(
    evaluations: Sequence[Evaluation],
    policy: Policy | None,
    title: str | None,
    redact_images: bool,
    sections: Sequence[str] | None,
    assets: str | None,
) -> tuple[str, dict[str, bytes]]:
    if not evaluations:
        raise InputError("a report needs an evaluation: give the file that `robustcls attack` wrote")
    from robustcls.reporting.page import compose  # Jinja2 and NumPy load here, not with the package

    return compose(evaluations, policy or Policy(), title, redact_images, sections, assets)


@contextmanager
def _added(folder: Path | None, files: dict[str, bytes]) -> Iterator[None]:
    """The files in the folder; those that were not there before are taken out again where the page cannot be written."""
    written: list[Path] = []
    made = folder is not None and not folder.exists()
    try:
        for name, content in files.items():
            assert folder is not None
            file = folder / name
            if not file.exists():
                with atomic_write(file, "--assets") as part:
                    part.write_bytes(content)
                written.append(file)
        yield
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        if made and folder is not None:
            with suppress(OSError):
                folder.rmdir()
        raise
