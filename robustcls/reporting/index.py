"""One page that lists every evaluation below a folder with its key numbers."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write
from robustcls.reporting.context import look_up
from robustcls.reporting.html import badge, dress, environment, lines, table
from robustcls.reporting.scrub import scrub
from robustcls.results.policy import Policy, judge
from robustcls.results.records import Evaluation

NAME, MARK = "index.html", '<meta name="generator" content="robustcls">'
_OURS = re.compile(rb'"schema"\s*:\s*"robustcls/evaluation/')


@dataclass(frozen=True)
class Entry:
    """A file that says that it is an evaluation."""

    file: str  # below the folder, with /
    evaluation: Evaluation | None  # scrubbed; None where it cannot be read
    error: str = ""


def index(folder: str | Path, *, policy: Policy | None = None, title: str | None = None) -> Path:
    """Writes index.html into the folder and returns its path. Raises InputError where that cannot be done."""
    path = Path(folder) / NAME
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise InputError(
            f"cannot write {path}: it is a page that robustcls did not make: move it, or list another folder"
        )
    text = render_index(folder, policy=policy, title=title)
    with atomic_write(path, "`index`") as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return path


def render_index(folder: str | Path, *, policy: Policy | None = None, title: str | None = None) -> str:
    """The page as text; the same folder gives the same bytes.

    Files of another kind are skipped and counted; an evaluation that cannot be read is listed with the reason. Raises
    InputError where the folder does not exist.
    """
    folder, policy = Path(folder), policy or Policy()
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: name one that holds evaluations with `index`")
    found, skipped = _find(folder)
    text = (
        environment()
        .get_template("index.html")
        .render(
            title=title or "Adversarial robustness reports",
            **dress(),
            images="data:",
            count=len(found),
            skipped=skipped,
            policy=policy,
            listed=_list(folder, found, policy),
            others=[_link(one, one) for one in _other_pages(folder, found)],
            unreadable=[one for one in found if one.evaluation is None],
        )
    )
    return text if text.endswith("\n") else text + "\n"


def _find(folder: Path) -> tuple[list[Entry], int]:
    """The evaluations, by path, and the number of other JSON files. Hidden files are not looked at."""
    found: list[Entry] = []
    skipped = 0
    for path in sorted(folder.rglob("*.json"), key=lambda one: one.relative_to(folder).as_posix()):
        below = path.relative_to(folder)
        if any(part.startswith(".") for part in below.parts) or not path.is_file():
            continue
        name = below.as_posix().encode("utf-8", "replace").decode()
        try:
            content = path.read_bytes()
            if not _OURS.search(content):
                skipped += 1
                continue
            found.append(Entry(name, scrub(Evaluation.from_json(content.decode("utf-8"), name))))
        except OSError as error:
            found.append(Entry(name, None, f"cannot be read: {error.strerror}"))
        except UnicodeDecodeError:
            found.append(Entry(name, None, f"{name} is not a text file"))
        except InputError as error:
            found.append(Entry(name, None, str(error)))
    return found, skipped


def _list(folder: Path, found: list[Entry], policy: Policy) -> Markup | None:
    heads = ["Model", *(["Verdict"] if policy.thresholds else []), "Clean, 95% interval", "Robust, 95% interval"]
    heads += ["n", "Threat", "Data", "Files", "Date", "Attacks"]
    rows = [_row(folder, one.file, one.evaluation, policy) for one in found if one.evaluation is not None]
    return table("Evaluations", heads, rows) if rows else None


def _row(folder: Path, file: str, evaluation: Evaluation, policy: Policy) -> list[Markup | str]:
    def number(path: str, spec: str) -> Markup:
        value = look_up(evaluation, path)
        return Markup('<span class="n" data-file="{}" data-path="{}" data-format="{}">{}</span>').format(
            file, path, spec, format(value, spec)
        )

    def interval(part: str) -> Markup:
        shares = [number(f"{part}.{end}", ".1%") for end in ("accuracy", "ci95.0", "ci95.1")]
        return Markup('{} <span class="ci">[{}, {}]</span>').format(*shares)

    attacks = lines(attack.name + (" (broke off)" if attack.error else "") for attack in evaluation.attacks)
    links = [_link(one, "report" if one.endswith(".html") else "JSON") for one in (*_pages(folder, file), file)]
    return [
        evaluation.model.name or evaluation.model.arch or "model",
        *([badge(judge(evaluation, policy).status)] if policy.thresholds else []),
        interval("clean"),
        interval("robust"),
        number("robust.total", ",d"),
        f"{evaluation.threat.norm} {evaluation.threat.eps_text}",
        f"{evaluation.data.name} {evaluation.data.split}",
        Markup(" ").join(links),
        evaluation.provenance.started[:10],
        attacks or "none",
    ]


def _pages(folder: Path, file: str) -> Iterator[str]:
    """The HTML file of the same name, else every one beside it."""
    home = Path(file).parent
    try:
        beside = sorted(one for one in os.listdir(folder / home) if one.endswith(".html") and not one.startswith("."))
    except OSError:
        return
    same = f"{Path(file).stem}.html"
    for name in [same] if same in beside else beside:
        if (home / name).as_posix() != NAME:
            yield (home / name).as_posix()


def _other_pages(folder: Path, found: list[Entry]) -> list[str]:
    """Pages that robustcls made and that lie beside no evaluation, such as comparisons."""
    known = {page for one in found for page in _pages(folder, one.file)}
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html") if path.is_file())
    return [
        page
        for page in pages
        if page not in known
        and not any(part.startswith(".") or part == NAME for part in page.split("/"))
        and MARK in (folder / page).read_text(encoding="utf-8", errors="replace")[:4000]
    ]


def _link(file: str, word: str) -> Markup:
    shown = file.encode("utf-8", "replace").decode()
    url = quote(os.fsencode(file))  # a colon in a name must not make a scheme of it
    return Markup('<a href="./{}" title="{}">{}</a>').format(url, shown, word)
