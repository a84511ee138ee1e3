"""`robustcls certify`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustcls.cli.attack import GO_ON, INCONCLUSIVE
from robustcls.cli.console import interval, note, table, wrap
from robustcls.cli.options import GroupedCommand, build, config_option, model_option, options
from robustcls.cli.places import command_line, default_out, overwrite_option
from robustcls.core.errors import InputError
from robustcls.core.files import check_writable, is_stdout, is_stream
from robustcls.evaluation.certify_config import CertifyConfig

if TYPE_CHECKING:
    from robustcls.results.records import Certified, Evaluation


@click.command("certify", cls=GroupedCommand)
@model_option
@click.option(
    "--out",
    metavar="FILE.json",
    help="Evaluation file to write. If it exists and has the same model and samples, its attacks are kept.  [default: beside "
    "the checkpoint, evaluation-smoothed.json or, with --method bounds, evaluation.json]",
)
@click.option(
    "--examples",
    metavar="FILE.npz",
    help="File that attack --save-examples wrote for the attacks in --out. For examples that lie inside a smoothing "
    "certificate, the vote is repeated.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run; the result is the same.")
@overwrite_option
@config_option
@options(CertifyConfig)
def command(
    flags: dict,
    config_file: str | None,
    model: str,
    out: str | None,
    examples: str | None,
    resume: bool,
    overwrite: bool,
) -> int:
    """Certify within which radius no perturbation changes a classifier's predictions: a lower bound on robust accuracy.

    Randomised smoothing certifies not the model M itself but the smoothed classifier smoothed(M, sigma=0.25), in l2. Its
    prediction is the class that M predicts most often under Gaussian noise. Train M with the same noise:
    --augment "crop_flip+gaussian(sigma=0.25)". For the matching upper bound, attack the same smoothed(M, sigma=0.25); an
    attack on M is about a different classifier.

    --method bounds certifies M itself, from its weights, in linf or l2. It is meant for small networks of plain layers, for
    small radii, and as a test of attacks. A large network gets 0%, however robust it is.

    \b
      robustcls certify --model ckpt.pt --sigma 0.25
      robustcls certify --model ckpt.pt --sigma 0.25 -n 500 --draws 10000
      robustcls certify --model "smoothed(ckpt.pt, sigma=0.25)" --resume
      robustcls certify --model ckpt.pt --sigma 0.25 --out attacked.json
      robustcls certify --model small.pt --method bounds --eps-grid 0,1/255,2/255
    """
    config = build(CertifyConfig, flags, config_file)

    from robustcls.evaluation.certificate_check import check_earlier_attacks, read_examples
    from robustcls.evaluation.certify import certify_spec
    from robustcls.evaluation.journal import Journal, kept
    from robustcls.results.contradictions import contradicted
    from robustcls.results.records import Evaluation
    from robustcls.runtime.device import keep_freed_memory
    from robustcls.runtime.world import World

    keep_freed_memory()
    task = certify_spec(model, config)
    target = Path(out) if out else default_out(task.subject.spec, "evaluation.json")
    check_writable(target, "--out", [model])
    if resume and is_stream(target):
        raise InputError(f"nothing is kept for --resume where --out is {target}, a pipe or a device: name a file")
    with World().claim((target, "--out")):
        earlier = None
        if not overwrite and not is_stream(target) and target.is_file() and target.stat().st_size:
            earlier = Evaluation.load(target)
            task.check_same(earlier, str(target))
        if examples is not None:
            if earlier is None or not earlier.attacks:
                raise InputError(
                    "`examples` need their attacks, and --out has none: name the evaluation that has these attacks"
                )
            read_examples(examples, task.subject)  # finds errors early
        for line in task.subject.notes:
            note(line, config.quiet)
        for line in task.remarks:
            note(line, config.quiet)
        journal = None if is_stream(target) else Journal(target.with_name(f"{target.name}.partial"), resume=resume)
        with kept(journal, lambda folder: note(GO_ON.format(folder), config.quiet)):
            evaluation = task.run(journal, command_line())
            if earlier is not None and earlier.attacks:
                note(f"the certificates are added to {target}, beside its attacks", config.quiet)
                size, earlier.certified = evaluation.provenance.batch_size or 1, evaluation.certified
                check_earlier_attacks(
                    task.subject, earlier, examples, seed=config.seed, batch_size=size, progress=not config.quiet
                )
                evaluation = earlier
            evaluation.save(target)
    aside = is_stdout(target)
    click.echo(summarise(evaluation), err=aside)
    click.echo(f"\n{target}", err=aside)
    return INCONCLUSIVE if contradicted(evaluation) else 0


def summarise(evaluation: "Evaluation") -> str:
    """Return the certificates as text of at most 80 columns."""
    from robustcls.results.contradictions import CHECK

    certified = evaluation.certified
    assert certified is not None
    head = ("radius", "certified", "95%", "samples")
    rows = [
        [certified.text(one.radius), f"{one.accuracy:.1%}", interval(one.ci95), f"{one.correct} of {one.total}"]
        for one in certified.curve
    ]
    lines = [table(head, rows), "", *_how(certified), f"{evaluation.model.name}: clean {evaluation.clean}"]
    if evaluation.attacks:
        lines.append(f"robust {evaluation.robust}, {evaluation.kind_text}, {evaluation.threat.text}")
    lines = [line if "\n" in line else wrap(line, indent=2) for line in lines]
    for one in evaluation.checks:
        if one.id == CHECK:
            warned = one.status in ("warn", "fail")
            lines.append(wrap(f"{'warning: ' if warned else ''}{one.id}: {one.message}", indent=9 if warned else 2))
    return "\n".join(lines)


def _how(certified: "Certified") -> list[str]:
    """Return sentences about the method and the confidence of the certificates."""
    if certified.method == "bounds":
        return [f"{certified.norm}, by bounds: {certified.algorithm}"]
    assert certified.alpha is not None
    false = certified.alpha * len(certified.samples)
    return [
        f"{certified.norm}, noise of sigma {certified.sigma:g}, {certified.n:,} draws each; {certified.abstained} abstained",
        f"each certificate holds with probability {1 - certified.alpha:.6g}: of {len(certified.samples)} at most {false:.2g} "
        "are expected to be false; 95% Wilson intervals are for the choice of the samples",
        *([f"the certificates are for the copy in {certified.precision}"] if certified.precision != "fp32" else []),
    ]
