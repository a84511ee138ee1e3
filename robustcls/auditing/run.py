"""The whole audit as one call, for `robustcls.audit` and the command."""

from pathlib import Path
from typing import Any

from robustcls.auditing.audit import audit_data, save_predictions
from robustcls.auditing.config import AuditConfig
from robustcls.auditing.decisions import write_findings
from robustcls.core.config import resolve
from robustcls.core.errors import InputError
from robustcls.core.files import check_writable
from robustcls.data.images import Images, as_images, collect
from robustcls.data.spec import check_outside
from robustcls.reporting.audit import audit_page
from robustcls.results.audit import Audit

JSON, PAGE, ISSUES, SUGGEST = "audit.json", "audit.html", "issues.csv", "suggest.csv"
PREDICTIONS = "predictions.npz"


def audit(data: Any, *, out: str | Path | None = None, progress: bool = False, **options: Any) -> Audit:
    """Find problems in training data: label errors, duplicates, confused classes, images near the decision boundary.

    The training images are split into two to four folds, and one model per fold is trained on all other folds, so that every
    image is judged by a model that was not trained on it. Label errors are found by confident learning (Northcutt et al. 2021,
    arXiv:1911.00068). Only the training split is audited; in the other splits, only duplicates are searched for.

    Args:
        data: a spec, as for `load_data`; or images and labels, as for `train`.
        out: a new folder for audit.json, audit.html, issues.csv, suggest.csv and predictions.npz; None to write nothing.
        progress: show progress on stderr.
        options: the other options of `robustcls audit`, such as `minutes`, `folds`, `arch`, `features`, `suggest`.

    Returns:
        The record: `.issues`, the most suspicious first, with `.index` (the position in the training split), `.label`,
        `.guess` and `.odds`; `.duplicates`; `.pairs`; `.boundary`; `.suggestions`; `.accuracy` of the out-of-fold predictions.

    Raises:
        InputError: if the data or the options are invalid; raised before any training.

    Example:
        >>> found = robustcls.audit("folder:photos", minutes=10)
        >>> [(one.file, found.classes[one.guess]) for one in found.issues[:10]]
    """
    images = None
    if not isinstance(data, str):
        if "limit_train" in options:
            raise InputError("`limit_train` is for a data set that is read: give fewer images")
        images = data if isinstance(data, Images) else as_images(collect(*data), "python")
    config = resolve(AuditConfig, {"data": data if images is None else None, **options, "quiet": True})
    return run_audit(config, images, out=None if out is None else Path(out), progress=progress)


def run_audit(
    config: AuditConfig,
    images: Images | None = None,
    *,
    out: Path | None,
    progress: bool = False,
    command: str = "",
) -> Audit:
    """Run an audit with a configuration, see `audit`. out: the folder; None to write nothing. Raises InputError."""
    if out is not None:
        check_place(out, config.data if images is None else None)
    record, predictions = audit_data(config, images, progress=progress, command=command)
    if out is not None:
        save_predictions(predictions, out / PREDICTIONS)
        write_findings(out / ISSUES, record.issues, record.classes)
        write_findings(out / SUGGEST, record.suggestions, record.classes)
        audit_page(record, out / PAGE)
        record.save(out / JSON)
    return record


def check_place(out: Path, data: str | None) -> None:
    """Raise InputError if the folder already has an audit, whose tables may have decisions, or if it lies inside the data."""
    if data is not None:
        check_outside(data, out)
    check_writable(out / JSON)
    there = [name for name in (JSON, ISSUES, SUGGEST) if (out / name).exists()]
    if there:
        raise InputError(f"{out} already has an audit ({there[0]}): name another folder with `out`")
