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
    help="The evaluation; one of the same model and samples keeps its attacks.  [default: beside the checkpoint, "
    "evaluation-smoothed.json, or of bounds evaluation.json]",
)
@click.option(
    "--examples",
    metavar="FILE.npz",
    help="What attack --save-examples wrote for the attacks in --out: examples inside a certificate of smoothing are voted on "
    "again.",
)
@click.option("--resume", is_flag=True, help="Go on with a run that was cut off, to the same result.")
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
    """Prove within which radius a classifier's answers hold, whatever the attack: a lower bound of robust accuracy.

    By randomised smoothing what is certified is not the model but the class that it gives most often under Gaussian noise,
    smoothed(M, sigma=0.25), in l2. Train with that noise: --augment "crop_flip+gaussian(sigma=0.25)". The upper bound beside
    it is an attack on the same smoothed(M, sigma=0.25); one on M itself is about another classifier.

    --method bounds proves it of M itself, from its weights: for small networks of plain layers and small radii, in linf or
    l2, and as a test of attacks. A large network gets 0%, however robust it is.

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
                raise InputError("`examples` are of attacks, and --out holds none: name the evaluation that has them")
            read_examples(examples, task.subject)  # before a long run
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
    """The certificates in at most 80 columns."""
    from robustcls.results.contradictions import CHECK

    found = evaluation.certified
    assert found is not None
    head = ("radius", "certified", "95%", "samples")
    rows = [
        [found.text(one.radius), f"{one.accuracy:.1%}", interval(one.ci95), f"{one.correct} of {one.total}"]
        for one in found.curve
    ]
    lines = [table(head, rows), "", *_how(found), f"{evaluation.model.name}: clean {evaluation.clean}"]
    if evaluation.attacks:
        lines.append(f"robust {evaluation.robust}, {evaluation.kind_text}, {evaluation.threat.text}")
    lines = [line if "\n" in line else wrap(line, indent=2) for line in lines]
    for one in evaluation.checks:
        if one.id == CHECK:
            warned = one.status in ("warn", "fail")
            lines.append(wrap(f"{'warning: ' if warned else ''}{one.id}: {one.message}", indent=9 if warned else 2))
    return "\n".join(lines)


def _how(found: "Certified") -> list[str]:
    """What the certificates are worth, in words."""
    if found.method == "bounds":
        return [f"{found.norm}, by bounds: {found.algorithm}"]
    assert found.alpha is not None
    false = found.alpha * len(found.samples)
    return [
        f"{found.norm}, noise of sigma {found.sigma:g}, {found.n:,} draws each; {found.abstained} abstained",
        f"each certificate holds with probability {1 - found.alpha:.6g}: of {len(found.samples)} at most {false:.2g} are "
        "expected to be false; 95% Wilson intervals are for the choice of the samples",
        *([f"certified is the copy in {found.precision}"] if found.precision != "fp32" else []),
    ]
