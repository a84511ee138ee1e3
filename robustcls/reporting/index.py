"""A page that lists every evaluation in a folder and below it, with its key numbers."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write
from robustcls.reporting.context import look_up
from robustcls.reporting.html import badge, estimate, fill_page, lacking, lines, piece, table
from robustcls.reporting.scrub import readable, scrub
from robustcls.results.bracket import stated_radius, why_apart
from robustcls.results.contradictions import contradicted, with_check
from robustcls.results.policy import Policy, judge
from robustcls.results.records import Evaluation

NAME, MARK = "index.html", '<meta name="generator" content="robustcls">'
_OURS = re.compile(rb'"schema"\s*:\s*"robustcls/evaluation/')


@dataclass(frozen=True)
class Entry:
    """A JSON file whose schema says that it is an evaluation."""

    file: str  # path relative to the folder, with /
    evaluation: Evaluation | None  # scrubbed; None if it cannot be read
    error: str = ""  # why it cannot be read


def index(folder: str | Path, *, policy: Policy | None = None, title: str | None = None) -> Path:
    """Write index.html into the folder and return its path. Raises InputError if it cannot be written."""
    path = Path(folder) / NAME
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise InputError(
            f"cannot write {path}: the page there was not made by robustcls: move it, or list another folder"
        )
    text = render_index(folder, policy=policy, title=title)
    with atomic_write(path, "`index`") as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return path


def render_index(folder: str | Path, *, policy: Policy | None = None, title: str | None = None) -> str:
    """Return the page as text; the same folder gives the same bytes.

    Other JSON files are skipped and counted. An evaluation that cannot be read is listed with the reason. Raises InputError
    if the folder does not exist.
    """
    folder, policy = Path(folder), policy or Policy()
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: give a folder that contains evaluations with `index`")
    found, skipped = _find(folder)
    pages = _below(folder, "*.html")
    proven = any(one.evaluation and one.evaluation.certified for one in found)
    rows = [_row(one.file, one.evaluation, _beside(one.file, pages), policy, proven) for one in found if one.evaluation]
    linked = {NAME} | {page for one in found for page in _beside(one.file, pages)}
    return fill_page(
        "index.html",
        title=title or "Adversarial robustness reports",
        images="data:",
        count=len(found),
        skipped=skipped,
        policy=policy,
        proven=proven,
        listed=table("Evaluations", rows),
        others=[_link(page, page) for page in pages if page not in linked and _is_ours(folder / page)],
        unreadable=[one for one in found if one.evaluation is None],
    )


def _find(folder: Path) -> tuple[list[Entry], int]:
    """The evaluations, sorted by path, and the number of other JSON files."""
    found: list[Entry] = []
    skipped = 0
    for file in _below(folder, "*.json"):
        name = readable(file)
        try:
            content = (folder / file).read_bytes()
            if not _OURS.search(content):
                skipped += 1
                continue
            found.append(Entry(name, scrub(with_check(Evaluation.from_json(content.decode("utf-8"), name)))))
        except OSError as error:
            found.append(Entry(name, None, f"cannot be read: {error.strerror}"))
        except UnicodeDecodeError:
            found.append(Entry(name, None, f"{name} is not a text file"))
        except InputError as error:
            found.append(Entry(name, None, str(error)))
    return found, skipped


def _below(folder: Path, pattern: str) -> list[str]:
    """The files below a folder that match the pattern, sorted by path, without hidden files."""
    files = [path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file()]
    return sorted(file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts))


def _beside(file: str, pages: list[str]) -> list[str]:
    """The HTML file with the same name as the evaluation, or else every HTML file in the same folder."""
    beside = [page for page in pages if Path(page).parent == Path(file).parent and page != NAME]
    same = Path(file).with_suffix(".html").as_posix()
    return [same] if same in beside else beside


def _is_ours(page: Path) -> bool:
    """Whether a page was made by robustcls and is not an index itself; a comparison, for example."""
    return page.name != NAME and MARK in page.read_text(encoding="utf-8", errors="replace")[:4000]


def _row(file: str, evaluation: Evaluation, pages: list[str], policy: Policy, proven: bool) -> dict[str, Any]:
    """The row of one evaluation. proven: whether the table has a column for certified accuracy."""

    def number(path: str, spec: str) -> Markup:
        return piece("number", "file", file, path, spec, format(look_up(evaluation, path), spec))

    def interval(part: str) -> Markup:
        return piece("interval", *(number(f"{part}.{end}", ".1%") for end in ("accuracy", "ci95.0", "ci95.1")))

    links = [_link(one, "report" if one.endswith(".html") else "JSON") for one in (*pages, file)]
    return {
        "Model": evaluation.model.name or evaluation.model.arch or "model",
        **({"Verdict": badge(judge(evaluation, policy).status)} if policy.thresholds else {}),
        "Clean, 95% interval": interval("clean"),
        "Robust, 95% interval": interval("robust"),
        **({"Certified, 95% interval": _certified(evaluation)} if proven else {}),
        "n": number("robust.total", ",d"),
        "Threat": evaluation.threat.text,
        "Data": f"{evaluation.data.name} {evaluation.data.split}",
        "Files": Markup(" ").join(links),
        "Date": evaluation.provenance.started[:10],
        "Attacks": lines(one.name + (" (failed)" if one.error else "") for one in evaluation.attacks) or "none",
    }


def _certified(evaluation: Evaluation) -> Markup:
    """Certified accuracy at the eps of the threat model, or at another radius, which is then shown beside it."""
    if evaluation.certified is None:
        return lacking()
    if evaluation.attacks and why_apart(evaluation):
        return lacking("not for the attacked model")
    radius = stated_radius(evaluation)
    shown = estimate("certified accuracy", evaluation.certified.at(radius))
    if radius != evaluation.threat.eps:
        shown = piece("at_radius", shown, f"{evaluation.certified.norm} {evaluation.certified.text(radius)}")
    return piece("marked", shown, "broken by attacks") if contradicted(evaluation) else shown


def _link(file: str, word: str) -> Markup:
    url = quote(os.fsencode(file))  # so that the browser does not read a name with a colon as a URL scheme
    return piece("link", url, readable(file), word)
