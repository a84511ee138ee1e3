"""`robustcls attack`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustcls.cli.console import interval, note, percent, progress, table, wrap
from robustcls.cli.options import GroupedCommand, build, config_option, model_option, options
from robustcls.cli.places import (
    check_not_lost,
    command_line,
    default_out,
    keep_earlier,
    name_of,
    note_if_replaced,
    overwrite_option,
)
from robustcls.core.errors import InputError
from robustcls.core.files import check_writable, is_stdout, is_stream
from robustcls.evaluation.config import AttackConfig

if TYPE_CHECKING:
    from robustcls.results.records import Evaluation

GO_ON = "kept in {}: the same command with --resume goes on from here"
# Exit status if an attack failed with an error, so that the result is incomplete, or if attacks contradict a certificate
INCONCLUSIVE = 3


@click.command("attack", cls=GroupedCommand)
@model_option
@click.option(
    "--out", metavar="FILE.json", help="Evaluation file to write.  [default: evaluation.json beside the checkpoint]"
)
@click.option("--save-examples", metavar="FILE.npz", help="Also save the verified adversarial examples.")
@click.option("--resume", is_flag=True, help="Continue an interrupted evaluation; the result is the same.")
@overwrite_option
@config_option
@options(AttackConfig)
def command(
    flags: dict,
    config_file: str | None,
    model: str,
    out: str | None,
    save_examples: str | None,
    resume: bool,
    overwrite: bool,
) -> int:
    """Measure clean and robust accuracy and write an evaluation.

    Attacks run in order, each on the samples that are still classified correctly. An adversarial example counts only if the
    fp32 model misclassifies the image as it is saved, and if it lies inside the ball and inside [0, 1]. Robust accuracy is
    an upper bound: stronger attacks could lower it.

    Under torchrun, the processes share the samples; the result is the same.

    \b
      robustcls attack --model ckpt.pt
      robustcls attack --model ckpt.pt --attack fgsm --attack "pgd(steps=50)"
      robustcls attack --model ckpt.pt --suite standard --n all
      robustcls attack --model ckpt.pt --suite standard --n all --resume
      robustcls attack --model ckpt.pt --eps-grid 0,2/255,4/255,16/255
      robustcls attack --model ckpt.pt --transfer-from other.pt
      robustcls attack --model ckpt.pt --target least_likely
      robustcls attack --model http://HOST:PORT/v2/models/NAME --attack square
      torchrun --nproc-per-node 4 -m robustcls attack --model ckpt.pt -n all
      robustcls attack --model mylab.nets:resnet --data folder:images --eps 4/255
      robustcls attack --model weights.pt --arch vgg16 --data cifar10 \\
          --mean 0.49,0.48,0.45 --std 0.25,0.24,0.26
    """
    config = build(AttackConfig, flags, config_file)

    from robustcls.evaluation.certificate_match import certificates_at
    from robustcls.evaluation.evaluate import evaluate_subject
    from robustcls.evaluation.journal import Journal, kept
    from robustcls.evaluation.plan import choose_attacks, plan_from
    from robustcls.evaluation.subject import load_subject
    from robustcls.results.contradictions import contradicted
    from robustcls.runtime.device import keep_freed_memory
    from robustcls.runtime.world import join_world

    keep_freed_memory()
    world = join_world()
    quiet = config.quiet or not world.first
    target = Path(out) if out else default_out(model, "evaluation.json")
    places = [(target, "--out"), *([(Path(save_examples), "--save-examples")] if save_examples else [])]
    for path, flag in places:
        check_writable(path, flag, [model])
    if resume and is_stream(target):
        raise InputError(f"nothing is kept for --resume where --out is {target}, a pipe or a device: name a file")
    with world.claim(*places):
        if not out:
            check_not_lost(target, [name_of(model)], overwrite)
        journal = Journal(target.with_name(f"{target.name}.partial"), resume=resume, world=world)
        journaled = None if is_stream(target) else journal
        choose_attacks(config.attack or None, config.suite, config.norm or "linf")  # finds typos early
        subject = load_subject(model, config)
        plan = plan_from(config, subject)
        for line in subject.notes:
            note(line, quiet)
        if not overwrite and not is_stream(target):
            subject.certificates, message = certificates_at(target, subject)
            note(message, quiet or not message)
        with kept(journaled, lambda folder: note(GO_ON.format(folder), quiet)):
            evaluation = evaluate_subject(
                subject, plan, journal=journaled, world=world, progress=progress(quiet), options=config,
                command=command_line(), examples="broken" if save_examples else "",
            )  # fmt: skip
            if not world.first:
                return 0
            if not out and not overwrite:
                keep_earlier(target, evaluation, names=not config.redact_names)
            evaluation.save(target)
            note_if_replaced(model, evaluation)
            examples = evaluation.examples.save(save_examples, option="--save-examples") if save_examples else 0
    aside = is_stdout(target) or is_stdout(save_examples)  # stdout holds a file, so text goes to stderr
    click.echo(summarise(evaluation), err=aside)
    click.echo(f"\n{target}", err=aside)
    if save_examples:
        click.echo(f"{save_examples}: {examples} adversarial examples", err=aside)
    failed = any(attack.error for attack in evaluation.attacks) or contradicted(evaluation)
    return INCONCLUSIVE if failed else 0


def summarise(evaluation: "Evaluation") -> str:
    """Return the evaluation as text of at most 80 columns."""
    from robustcls.results.balance import what_is_estimated
    from robustcls.results.evaluation import say_bounds, say_certified, say_reached, say_severity

    rows = [["none (clean)", "", "", f"{evaluation.clean.accuracy:.1%}", "", ""]]
    for attack in evaluation.attacks:
        after = "failed" if attack.error else f"{attack.robust_accuracy:.1%}"
        alone = f"{attack.alone.accuracy:.1%}" if attack.alone else ""
        rows.append([attack.name, str(attack.attacked), str(attack.broken), after, alone, f"{attack.seconds:.1f}"])
    header = [
        "attack",
        "attacked",
        "reached target" if evaluation.targeted else "broken",
        "accuracy",
        "alone",
        "seconds",
    ]
    if not any(attack.alone for attack in evaluation.attacks):
        for row in (header, *rows):
            del row[4]
    lines = [
        table(header, rows),
        "",
        f"clean   {percent(evaluation.clean)}",
        f"robust  {percent(evaluation.robust)}",
        f"         {evaluation.robust.kind}",
        *([f"target  {say_reached(evaluation.targeted)}"] if evaluation.targeted else []),
        *(f"bound   {text}" for text in say_bounds(evaluation)),
        *([f"proven  {say_certified(evaluation.certified)}"] if evaluation.certified else []),
        *([f"tree    mistakes {say_severity(evaluation.severity)}"] if evaluation.severity else []),
        f"         {evaluation.threat.text}, n = {evaluation.data.n}, 95% Wilson intervals",
        f"         estimates {what_is_estimated(evaluation)}",
        *_under_noise(evaluation),
        *_under_detector(evaluation),
        *_by_class(evaluation),
    ]
    if evaluation.curve:
        radii = [[f"eps {point.eps_text}", percent(point.robust)] for point in evaluation.curve]
        lines += ["", table(["security curve", "robust accuracy"], radii)]
    for attack in evaluation.attacks:
        if attack.censored == 0 and attack.median_nearest is None:
            lines.append(f"{attack.name}: no sample attacked")
        elif attack.censored is not None:
            typical = "beyond reach" if attack.median_nearest is None else f"{attack.median_nearest:.4g}"
            lines.append(f"{attack.name}: median distance {typical}, none found for {attack.censored}")
    if service := evaluation.provenance.service:
        lines.append(f"service {service.url}, version {service.version}: {service.queries:,} images answered")
    if evaluation.surrogate:
        lines.append(f"transfer: examples crafted on {evaluation.surrogate.name}")
    if evaluation.artefact:
        from robustcls.evaluation.measures.artefact.verdict import verdict

        lines.append(f"artefact {verdict(evaluation.artefact)}")
    lines += [f"failed: {attack.name}: {attack.error}" for attack in evaluation.attacks if attack.error]
    lines += [
        f"warning: {check.id}: {check.message}" for check in evaluation.checks if check.status in ("warn", "fail")
    ]
    return "\n".join(line if "\n" in line else wrap(line, indent=9) for line in lines)


def _under_noise(evaluation: "Evaluation") -> list[str]:
    """For a random model: return the table of the accuracy of single forward passes."""
    noise = evaluation.under_noise
    if noise is None:
        return []
    rows = [
        [name, f"{one.value:.1%}", interval(one.ci95), interval(one.noise95), f"{one.lowest:.1%} to {one.highest:.1%}"]
        for name, one in (("clean", noise.clean), ("robust", noise.robust))
    ]
    explanation = (
        "The accuracies above are those of the mean over the model's draws. The table below gives the accuracy of a single "
        f"pass, over {noise.passes} passes with noise that no attack has seen. The first interval is for images and noise, "
        "the second for the noise alone."
    )
    return ["", explanation, "", table(["one pass", "accuracy", "95%", "noise alone", "passes"], rows)]


def _under_detector(evaluation: "Evaluation") -> list[str]:
    """Return a paragraph about the images that a detector rejects."""
    rejection = evaluation.rejection
    if rejection is None:
        return []
    return [
        "",
        f"detector {rejection.detector} rejects {rejection.clean_rejected} of {rejection.clean.total} clean images; "
        f"{rejection.correct_rejected} of these are classified correctly, and their rejection counts as an error. "
        f"{rejection.caught} attack attempts are misclassified and rejected. Clean accuracy without the detector is "
        f"{rejection.clean.accuracy:.1%}. The threshold {rejection.threshold:.4g} rejects {rejection.held_out_rejected} of "
        f"{rejection.held_out} clean held-out images",
    ]


def _by_class(evaluation: "Evaluation") -> list[str]:
    """Return the lines about classes: those without samples and, for unbalanced data, where accuracy alone would mislead,
    the samples per class and the measures that do not depend on them.
    """
    from robustcls.results.balance import measures_by_class, needs_balance, say_absent, say_counts, say_others

    lines = [f"         {absent}" for absent in [say_absent(evaluation)] if absent]
    if not needs_balance(evaluation):
        return lines
    rows = [row for one in measures_by_class(evaluation) for row in one.rows()]
    heads = ("by class", "clean", "95%", "robust", "95%")
    lines += [f"         samples by class: {say_counts(evaluation)}", "", table(heads, rows)]
    return [*lines, *([others] if (others := say_others(evaluation)) else [])]
