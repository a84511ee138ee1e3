"""A model card with Hugging Face front matter, and a RobustBench entry, from an evaluation."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from robustcls.core import plugins
from robustcls.core.files import atomic_write, check_writable
from robustcls.evaluation.measures.calibration.record import Reliability
from robustcls.reporting.context import say_who_was_met
from robustcls.reporting.missing import ACTIVE_CHECKS, PARTS, usual_reason
from robustcls.reporting.scrub import scrub
from robustcls.results.balance import measures_by_class, say_absent, say_counts, two_classes_of, what_is_estimated
from robustcls.results.comparison import count_classes, worst_class
from robustcls.results.policy import Policy, judge, lacking_attacks
from robustcls.results.records import Accuracy, Estimate, Evaluation
from robustcls.results.statistics import wilson

ROBUSTBENCH = "robustbench"
_HUB = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100", "fashion_mnist": "zalando-datasets/fashion_mnist"}
_LEADERBOARDS = {"linf": (8 / 255, "8/255"), "l2": (0.5, "0.5")}  # of RobustBench, for CIFAR-10
_WHOLE = {"cifar10": 10_000, "cifar100": 10_000}  # images of the test split


def write_card(evaluation: Evaluation, path: str | Path, policy: Policy | None = None) -> list[Path]:
    """Writes the model card and, for a threat that RobustBench ranks, robustbench.json beside it; the paths written.

    Raises InputError where a file cannot be written.
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
    """Where the RobustBench entry goes: MODEL_CARD-pgd.md, one of several in a folder, has its own."""
    return path.with_name(ROBUSTBENCH + path.stem.partition("MODEL_CARD")[2] + ".json")


def model_card(evaluation: Evaluation, policy: Policy | None = None) -> str:
    """MODEL_CARD.md as text (Mitchell et al. 2019, arXiv:1810.03993; front matter as huggingface.co/docs/hub/model-cards).

    policy: the thresholds of its verdict; without, it says that nothing was judged.
    Every text of the evaluation is quoted in YAML and escaped in Markdown; paths and user names are scrubbed.
    """
    found = scrub(evaluation)
    blocks = [f"# {_plain(_title(found))}", _opening(found)]
    for heading, body in (
        ("Model", _model(found)),
        ("Intended use", _intended(found)),
        ("Training", _training(found)),
        ("Data", _data(found)),
        ("Results", _results(found)),
        ("Verdict", _verdict(found, policy)),
        ("Attacks", _attacks(found)),
        ("Worst class", _worst_class(found)),
        ("Calibration", _calibration(found)),
        ("Common corruptions", _corruptions(found)),
        ("Diagnostics", _diagnostics(found)),
        ("Limits", _limits(found)),
        ("How to reproduce", _reproduce(found)),
    ):
        if body:
            blocks += [f"## {heading}", body]
    return f"---\n{_yaml(_front_matter(found))}---\n\n" + "\n\n".join(blocks) + "\n"


def robustbench_info(evaluation: Evaluation) -> dict[str, Any] | None:
    """An entry of RobustBench's model_info (Croce et al. 2021, arXiv:2010.09670); None for a threat that it does not rank.

    `autoattack_acc` is given only where AutoAttack's standard attacks, and no others, ran to their end on the whole test
    split; else it is null, and `footnote` says why. What only the authors know is empty or null.
    """
    found = scrub(evaluation)
    eps, eps_text = _LEADERBOARDS.get(found.threat.norm, (-1.0, ""))
    if abs(found.threat.eps - eps) > 1e-9:
        return None
    why = _no_autoattack(found)
    name = "robustcls's implementation of AutoAttack's standard version"
    return {
        "link": "",
        "name": _title(found),
        "authors": "",
        "additional_data": None,
        "number_forward_passes": 1,
        "dataset": found.data.name,
        "venue": "N/A",
        "architecture": found.model.arch,
        "eps": eps_text,
        "clean_acc": f"{100 * found.clean.accuracy:.2f}",
        "reported": None,
        "autoattack_acc": None if why else f"{100 * found.robust.accuracy:.2f}",
        "footnote": f"No AutoAttack accuracy: {why}." if why else f"Robust accuracy by {name}.",
        "unreliable": any(check.status == "fail" for check in found.checks),
    }


def _no_autoattack(found: Evaluation) -> str:
    whole = _WHOLE.get(found.data.name)
    if whole is None or found.data.split != "test" or not found.robust.total == found.data.n == whole:
        return f"{found.robust.total:,} samples of {found.data.name} {found.data.split} are not the whole test split"
    if found.surrogate is not None:
        return "the examples were crafted on another model"
    broken = [attack.name for attack in found.attacks if attack.error]
    lacking = lacking_attacks(found, ("standard",))
    if broken or lacking:
        return f"{', '.join(broken or lacking)} did not run to the end with the standard options"
    if len(found.attacks) != len(plugins.load("suite", "standard")(found.threat.norm)):
        return "other attacks than the standard ones ran too"
    return ""


def _title(found: Evaluation) -> str:
    return found.model.name or found.model.arch or "model"


def _under(found: Evaluation) -> str:
    return f"{found.threat.norm} {found.threat.eps_text}"


def _front_matter(found: Evaluation) -> dict[str, Any]:
    metrics = [
        {"type": "accuracy", "name": "Clean accuracy", "value": found.clean.accuracy},
        {
            "type": "accuracy",
            "name": f"Robust accuracy under {_under(found)} (empirical upper bound)",
            "value": found.robust.accuracy,
        },
    ]
    if found.corruptions is not None and found.corruptions.mean is not None:
        value = found.corruptions.mean
        metrics.append({"type": "accuracy", "name": "Mean accuracy under common corruptions", "value": value})
    hub = _HUB.get(found.data.name)
    dataset = {"type": hub or found.data.name, "name": found.data.name, "split": found.data.split}
    result = {"task": {"type": "image-classification"}, "dataset": dataset, "metrics": metrics}
    return {
        "license": found.license or "unknown",
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "adversarial-robustness", "robustcls"],
        **({"datasets": [hub]} if hub else {}),
        "metrics": ["accuracy"],
        "model-index": [{"name": _title(found), "results": [result]}],
    }


def _yaml(value: Any, indent: str = "") -> str:
    """Block YAML of dicts, lists, texts and numbers, each line ended."""
    if isinstance(value, dict):
        return "".join(f"{indent}{key}:{_nested(inner, indent)}" for key, inner in value.items())
    lines = ""
    for one in value:
        if isinstance(one, dict):
            lines += f"{indent}- " + _yaml(one, indent + "  ").removeprefix(indent + "  ")
        else:
            lines += f"{indent}- {_scalar(one)}\n"
    return lines


def _nested(value: Any, indent: str) -> str:
    return f"\n{_yaml(value, indent + '  ')}" if isinstance(value, (dict, list)) else f" {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    """As JSON, which YAML reads alike but for characters that it holds not printable."""
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(text: object) -> str:
    """One line of Markdown that shows `text` as it is: no markup, link, HTML or mention in it works."""
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", str(text))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]|~#!$])", r"\\\1", line)
    return line.replace("://", "&#58;//").replace("@", "&#64;").replace("www.", "www&#46;").strip()


def _code(text: str) -> str:
    """A fenced block that nothing in it can end."""
    line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence}text\n{line}\n{fence}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(items: Iterable[tuple[str, object]]) -> str:
    return "\n".join(f"- {name}: {_plain(value)}" for name, value in items)


def _interval(found: Accuracy | Estimate, spec: str = ".1%") -> str:
    return f"{found.ci95[0]:{spec}} to {found.ci95[1]:{spec}}"


def _opening(found: Evaluation) -> str:
    clean, robust = found.clean, found.robust
    return (
        f"An image classifier that gets {clean.accuracy:.1%} of {clean.total:,} unchanged images right, and"
        f" {robust.accuracy:.1%} under {_plain(_under(found))} perturbations found by the attacks below."
        " Robust accuracy is an **empirical upper bound**: a stronger attack can only lower it."
    )


def _model(found: Evaluation) -> str:
    model, shown = found.model, ", ".join(found.model.classes[:20])
    more = f" and {len(model.classes) - 20:,} more" if len(model.classes) > 20 else ""
    return _bullets(
        [
            ("Architecture", model.arch or "not recorded"),
            ("Parameters", f"{model.parameters:,}" if model.parameters else "not recorded"),
            ("Input", " × ".join(map(str, model.input_size)) or "not recorded"),
            ("Classes", f"{len(model.classes):,}: {shown}{more}" if model.classes else "not recorded"),
            ("Licence", found.license or "not stated"),
            ("SHA-256", model.sha256),
        ]
    )


def _intended(found: Evaluation) -> str:
    return _plain(found.intended_use) if found.intended_use else "Not stated."


def _training(found: Evaluation) -> str:
    training = found.training
    if training is None:
        return "No training history came with the evaluation."
    keys = ("arch", "data", "objective", "adv", "eps", "norm", "epochs", "lr", "batch_size", "augment")
    items: list[tuple[str, object]] = [
        (f"`{key}`", training.config[key]) for key in keys if training.config.get(key) is not None
    ]
    items += [("Chosen epoch", f"{training.chosen_epoch} of {len(training.epochs)}"), ("By", training.selected_by)]
    items += [("Warning", f"epoch {epoch.epoch}: {epoch.warning}") for epoch in training.epochs if epoch.warning]
    return _bullets(items)


def _data(found: Evaluation) -> str:
    data = found.data
    of = f" of {data.available:,}" if data.available else ""
    items = [
        ("Data", f"{data.name}, split {data.split}"),
        ("Samples", f"{data.n:,}{of}" + (f", {data.sampling}" if data.sampling else "")),
        ("Accuracy estimates", what_is_estimated(found)),
        *([("Samples by class", counts)] if (counts := say_counts(found)) else []),
        *([("Not judged", absent)] if (absent := say_absent(found)) else []),
        ("SHA-256 of pixels and labels", data.sha256),
    ]
    return _bullets([*items, *([("Note", data.note)] if data.note else [])])


def _results(found: Evaluation) -> str:
    rows = [
        ("Clean accuracy", f"{found.clean.accuracy:.1%}", _interval(found.clean), f"{found.clean.total:,}"),
        (
            f"Robust accuracy under {_under(found)}, upper bound",
            f"{found.robust.accuracy:.1%}",
            _interval(found.robust),
            f"{found.robust.total:,}",
        ),
    ]
    for one in measures_by_class(found):
        for when, value in (("clean", one.clean), (f"under {_under(found)}", one.robust)):
            if value is not None:
                n = value.total if isinstance(value, Accuracy) else len(found.samples)
                rows.append(
                    (f"{one.full_name}, {when}", f"{value.value:{one.spec}}", _interval(value, one.spec), f"{n:,}")
                )
    items = [("Attacker's goal", found.threat.goal), ("Attacker's knowledge", found.threat.knowledge)]
    items += [("Two classes", two.rule)] if (two := two_classes_of(found)) and two.rule else []
    return f"{_table(('Measure', 'Value', '95% interval', 'n'), rows)}\n\n{_bullets(items)}"


def _verdict(found: Evaluation, policy: Policy | None) -> str:
    """The status, and what became of each criterion; that nothing was judged, without thresholds."""
    if policy is None or not policy.thresholds:
        return "Not judged: no thresholds were given."
    verdict = judge(found, policy)
    by = f" by the policy {_plain(policy.name)}" if policy.name else ""
    rows = [(one.status, one.asked, one.reason) for one in verdict.criteria]
    return f"**{verdict.status}**{by}.\n\n{_table(('Status', 'Asked', 'Found'), rows)}"


def _attacks(found: Evaluation) -> str:
    if not found.attacks:
        return "No attack was run."
    rows = [
        (
            attack.name,
            ", ".join(f"{key}={value}" for key, value in attack.options.items()),
            f"{attack.attacked:,}",
            f"{attack.broken:,}",
            f"{attack.robust_accuracy:.1%}",
            f"broke off: {attack.error}" if attack.error else "ran to its end",
        )
        for attack in found.attacks
    ]
    heads = ("Attack", "Options", "Met", "Broken", "Robust accuracy after it", "State")
    return f"In this order, {say_who_was_met(found.attacks)}.\n\n{_table(heads, rows)}"


def _worst_class(found: Evaluation) -> str:
    counts = count_classes(found.samples)
    if not counts:
        return ""
    worst = worst_class(counts)
    name = found.model.classes[worst.label] if worst.label < len(found.model.classes) else f"class {worst.label}"
    low, high = wilson(worst.robust, worst.total)
    return f"{_plain(name)}: robust accuracy {worst.accuracy:.1%} [{low:.1%}, {high:.1%}], n = {worst.total:,}."


def _calibration(found: Evaluation) -> str:
    if found.calibration is None:
        return ""

    def row(name: str, one: Reliability) -> tuple[str, ...]:
        return name, f"{one.ece:.1%}", f"{one.confidence:.1%}", f"{one.accuracy:.1%}", f"{one.n:,}", str(len(one.bins))

    rows = [row("clean", found.calibration.clean), row("adversarial", found.calibration.adversarial)]
    heads = ("Images", "Expected calibration error", "Mean confidence", "Accuracy", "n", "Bins")
    return _table(heads, rows) + (f"\n\n{_plain(found.calibration.rule)}" if found.calibration.rule else "")


def _corruptions(found: Evaluation) -> str:
    one = found.corruptions
    if one is None or one.mean is None:
        return ""
    names = len({result.name for result in one.results})
    items = [
        ("Mean accuracy", f"{one.mean:.1%} over {names} corruptions, n = {one.n:,} ({one.clean.accuracy:.1%} without)"),
        ("Samples", one.rule),
        ("Images", one.source),
    ]
    return _bullets([*items, *([("Note", one.note)] if one.note else [])])


def _diagnostics(found: Evaluation) -> str:
    if not found.checks:
        return "No self-check was run."
    rows = [(check.id, check.status.replace("_", " "), check.message) for check in found.checks]
    return _table(("Check", "Status", "Found"), rows)


def _limits(found: Evaluation) -> str:
    return "\n".join(f"- {line}" for line in _limit_lines(found))


def _limit_lines(found: Evaluation) -> Iterator[str]:
    yield f"Robust accuracy is about {_plain(_under(found))} perturbations; others may do more harm."
    yield "No certificate: what these attacks did not find may exist."
    if found.surrogate is not None:
        yield f"The examples were crafted on another model, {_plain(found.surrogate.name)}."
    reasons = {part: usual_reason(found, part) for part, (_, holds, _) in PARTS.items() if not holds(found)}
    for part, reason in (reasons | found.not_run).items():
        title = PARTS[part][0] if part in PARTS else part.replace("_", " ").capitalize()
        if part == "diagnostics" and found.checks:
            title = ACTIVE_CHECKS
        yield f"Not run: {_plain(title)}: {_plain(reason)}"
    for part, reason in found.reduced.items():
        title = PARTS[part][0] if part in PARTS else part.replace("_", " ").capitalize()
        yield f"On fewer samples: {_plain(title)}: {_plain(reason)}"
    for one in found.minimum or []:
        if one.error and "minimum" not in reasons:
            yield f"Broke off: minimum perturbation, {_plain(one.norm)}: {_plain(one.error)}"


def _reproduce(found: Evaluation) -> str:
    made = found.provenance
    items = [
        ("Seed", made.seed),
        ("Versions", ", ".join(f"{name} {version}" for name, version in made.versions.items()) or "not recorded"),
        ("Commit", made.commit or "not recorded"),
        ("Device", f"{made.device}{f', {made.precision}' if made.precision else ''}"),
        ("Images at a time", made.batch_size or "not recorded"),
        ("Started", f"{made.started}, took {made.seconds:.0f} s"),
    ]
    return f"{_code(made.command)}\n\n{_bullets(items)}"
