"""Write a model card with Hugging Face front matter, and a RobustBench entry, from an evaluation."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from robustcls.core import plugins
from robustcls.core.files import atomic_write, check_writable
from robustcls.core.measures import measures
from robustcls.reporting import missing as parts
from robustcls.reporting.context import say_who_was_attacked
from robustcls.reporting.html import environment
from robustcls.reporting.missing import PARTS, usual_reason
from robustcls.reporting.scrub import scrub
from robustcls.results import comparison
from robustcls.results.bracket import bracket, largest_radius, other_classifier, why_apart
from robustcls.results.certified import CertifiedPoint
from robustcls.results.evaluation import say_bounds
from robustcls.results.policy import Policy, judge, lacking_attacks
from robustcls.results.records import Accuracy, Estimate, Evaluation
from robustcls.results.statistics import wilson

ROBUSTBENCH = "robustbench"
_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "fashion_mnist": "zalando-datasets/fashion_mnist"}
_LEADERBOARDS = {
    "linf": (8 / 255, "8/255"),
    "l2": (0.5, "0.5"),
}  # threat models that RobustBench ranks: eps and its text
_WHOLE = {"cifar10": 10_000, "cifar100": 10_000}  # size of the whole test split


def write_card(evaluation: Evaluation, path: str | Path, policy: Policy | None = None) -> list[Path]:
    """Write the model card and return the paths written.

    For a threat model that RobustBench ranks, also write robustbench.json beside the card. Raises InputError if a file cannot
    be written.
    """
    path = Path(path)
    info = robustbench_info(evaluation)
    texts = {path: model_card(evaluation, policy)}
    if info is not None:
        texts[beside_card(path)] = json.dumps(info, indent=2, ensure_ascii=False) + "\n"
    for file in texts:
        check_writable(file)
    for file, text in texts.items():
        with atomic_write(file) as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return list(texts)


def beside_card(path: Path) -> Path:
    """The path of the RobustBench entry beside a card: robustbench.json, or robustbench-pgd.json for MODEL_CARD-pgd.md."""
    return path.with_name(ROBUSTBENCH + path.stem.partition("MODEL_CARD")[2] + ".json")


def model_card(evaluation: Evaluation, policy: Policy | None = None) -> str:
    """Return MODEL_CARD.md as text (Mitchell et al. 2019, arXiv:1810.03993).

    The front matter follows huggingface.co/docs/hub/model-cards.
    Every text of the evaluation is quoted in YAML and escaped in Markdown; paths and user names are scrubbed.

    policy: the thresholds of the verdict; without them the card says that the model was not judged.
    """
    scrubbed = scrub(evaluation)
    verdict = judge(scrubbed, policy) if policy is not None and policy.thresholds else None
    missing = {part: usual_reason(scrubbed, part) for part, (_, holds, _) in PARTS.items() if not holds(scrubbed)}
    held = [one for one in measures() if one.held_by(scrubbed)]
    values = {
        "proven": scrubbed.certified,
        "other": scrubbed.certified and other_classifier(scrubbed),
        "apart": why_apart(scrubbed),
        "both": bracket(scrubbed),
        "held": held,
        "title": _title(scrubbed),
        "hub": _HUB.get(scrubbed.data.name),
        "missing": missing | scrubbed.not_run,
    }
    text = _markdown().get_template("card.md").render(e=scrubbed, policy=policy, verdict=verdict, **values)
    return re.sub(r"\n{3,}", "\n\n", text)


@cache
def _markdown() -> Environment:
    """The Jinja2 environment of the pages, but with all values escaped for Markdown."""
    made = environment().overlay(keep_trailing_newline=True, finalize=_plain)
    known = {
        "comparison": comparison,
        "parts": parts,
        "wilson": wilson,
        "say_who_was_attacked": say_who_was_attacked,
        "say_bounds": say_bounds,
        "largest_radius": largest_radius,
    }
    made.globals = made.globals | known
    made.filters = made.filters | {"json": _json, "share": _share, "interval": _interval, "fenced": _fenced}
    return made


def _share(value: float, spec: str = ".1%") -> str:
    return format(value, spec)


def _interval(found: Accuracy | Estimate | CertifiedPoint, spec: str = ".1%") -> str:
    return f"{found.ci95[0]:{spec}} to {found.ci95[1]:{spec}}"


def _json(value: Any) -> Markup:
    """A value as JSON that YAML reads as the same value: characters that YAML does not allow unescaped are escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return Markup(re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text))


def _one_line(text: object) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", str(text))


def _plain(text: object) -> Markup:
    """One line of Markdown that shows `text` literally: links, HTML and mentions are escaped. Markup is returned as is."""
    if isinstance(text, Markup):
        return text
    line = _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]|~#!$])", r"\\\1", line)
    return Markup(line.replace("://", "&#58;//").replace("@", "&#64;").replace("www.", "www&#46;").strip())


def _fenced(text: str) -> Markup:
    """The text in a fenced block whose fence is longer than any run of backticks in the text."""
    line = _one_line(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return Markup(f"{fence}text\n{line}\n{fence}")


def robustbench_info(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return an entry of RobustBench's model_info (Croce et al. 2021, arXiv:2010.09670), or None for a threat model that
    RobustBench does not rank.

    `autoattack_acc` is given only if AutoAttack's standard attacks, and no others, completed on the whole test split;
    otherwise it is null and `footnote` gives the reason. Fields that only the authors know are empty or null.
    """
    scrubbed = scrub(evaluation)
    eps, eps_text = _LEADERBOARDS.get(scrubbed.threat.norm, (-1.0, ""))
    if abs(scrubbed.threat.eps - eps) > 1e-9 or not scrubbed.threat.plain or scrubbed.targeted:
        return None
    why = _no_autoattack(scrubbed)
    name = "robustcls's implementation of AutoAttack's standard version"
    return {
        "link": "",
        "name": _title(scrubbed),
        "authors": "",
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": scrubbed.data.name,
        "venue": "N/A",
        "architecture": scrubbed.model.arch,
        "eps": eps_text,
        "clean_acc": f"{100 * scrubbed.clean.accuracy:.2f}",
        "reported": None,
        "autoattack_acc": None if why else f"{100 * scrubbed.robust.accuracy:.2f}",
        "footnote": f"No AutoAttack accuracy: {why}." if why else f"Robust accuracy by {name}.",
        "unreliable": any(check.status == "fail" for check in scrubbed.checks),
    }


def _no_autoattack(evaluation: Evaluation) -> str:
    """The reason why robust accuracy is not an AutoAttack accuracy; "" if it is one."""
    whole = _WHOLE.get(evaluation.data.name)
    if whole is None or evaluation.data.split != "test" or not evaluation.robust.total == evaluation.data.n == whole:
        data = evaluation.data
        return f"{evaluation.robust.total:,} samples of {data.name} {data.split} are not the whole test split"
    if evaluation.surrogate is not None:
        return "the adversarial images were crafted on another model"
    broken = [attack.name for attack in evaluation.attacks if attack.error]
    lacking = lacking_attacks(evaluation, ("standard",))
    if broken or lacking:
        return f"{', '.join(broken or lacking)} did not complete with the standard options"
    if len(evaluation.attacks) != len(plugins.load("suite", "standard")(evaluation.threat.norm)):
        return "attacks other than the standard ones were also run"
    return ""


def _title(evaluation: Evaluation) -> str:
    return evaluation.model.name or evaluation.model.arch or "model"
