"""Many large images are kept in 8 bits and attacked in chunks, with the same result as in memory."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from robustcls.cli.main import main
from robustcls.core.detector import make_detector
from robustcls.evaluation import cascade
from robustcls.evaluation.evaluate import evaluate_subject
from robustcls.evaluation.journal import Journal
from robustcls.evaluation.plan import make_plan
from robustcls.evaluation.subject import make_subject
from robustcls.evaluation.targets import aimed
from robustcls.models.wrappers.averaged import averaged
from robustcls.results.records import Evaluation
from robustcls.runtime import stored
from robustcls.runtime.fused import Counted
from robustcls.runtime.stored import EightBit, Stored
from robustcls.runtime.world import World
from tests.evaluation.test_journal import Cut, cut_after
from tests.helpers import ROOT
from tests.helpers.eval_models import ATTACKS, LINF, Evaluated, Masked, make_batch, make_net, met, without_times
from tests.helpers.forked import forked

CHUNK, BATCH = 7, 4
NEAREST = [*ATTACKS, "tests.helpers.eval_models:nearest"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(cascade, "CHUNK", CHUNK)


def run(
    attacks=ATTACKS, *, model=None, detector=None, large=True, target=None, journal=None, progress=None, examples="all",
    **options,
):  # fmt: skip
    """Evaluate the samples of make_batch, rounded to 8 bits; they are tensors unless large."""
    x, y = make_batch()
    pixels = (x * 255).round().to(torch.uint8)
    subject = replace(make_subject(model or make_net(), pixels.float() / 255, y, LINF), detector=detector)
    if large:
        subject = replace(subject, x=EightBit(pixels))
    subject = aimed(subject, target, seed=0, batch_size=BATCH)
    plan = make_plan(subject, attacks, precision="fp32", batch_size=BATCH, **options)
    return Evaluated(subject, evaluate_subject(subject, plan, journal=journal, progress=progress, examples=examples))


def comparable(judged):
    """Return the record without values that change by rounding if batches differ."""
    whole = without_times(judged)
    for sample in whole["samples"]:
        for name in ("distance", "nearest"):
            sample.pop(name, None)
    for attack in whole["attacks"]:
        for name in ("median_distance", "median_nearest"):
            attack.pop(name, None)
    whole["data"].pop("sha256")
    return whole


@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("attacks", [ATTACKS, NEAREST, ["square(queries=30)", "pgd(steps=4, restarts=2)"], ["fast"]])
def test_chunks_give_what_all_together_give(attacks, alone):
    whole, chunks = (run(attacks, large=large, alone=alone, eps_grid=[0.01, 0.04]) for large in (False, True))
    assert comparable(chunks) == comparable(whole)
    assert len(whole.y) > 3 * CHUNK, "otherwise there is only one chunk"
    assert isinstance(chunks.examples.x_adv, Stored)
    torch.testing.assert_close(chunks.examples.x_adv[:], whole.examples.x_adv)
    torch.testing.assert_close(chunks.examples.distance, whole.examples.distance)


@pytest.mark.parametrize("target", [1, "random", "least_likely"])
def test_chunks_aim_at_what_all_together_aim_at(target):
    """If all samples have the same target class, the samples of this class are left out."""
    whole, chunks = (run(["pgd(steps=3)", "apgd_ce(steps=5)"], large=large, target=target) for large in (False, True))
    assert comparable(chunks) == comparable(whole)
    assert torch.equal(chunks.examples.target, whole.examples.target)
    assert (len(whole.y) < 60) == (target == 1)
    assert isinstance(chunks.examples.x_adv, Stored)
    torch.testing.assert_close(chunks.examples.x_adv[:], whole.examples.x_adv)


def test_all_attacks_meet_a_chunk_before_the_next():
    order = []

    def progress(batches, label, total, standing):
        order.append(label)
        return batches

    run(progress=progress)
    count = len(ATTACKS)
    labels = [label.partition(",")[2].strip() for label in order]
    assert labels[:count] == [f"1 to {CHUNK}"] * count
    assert labels[count : 2 * count] == [f"{CHUNK + 1} to {2 * CHUNK}"] * count
    assert [label.partition(",")[0] for label in order[:count]] == [
        label.partition(",")[0] for label in order[count : 2 * count]
    ]


def test_one_perturbation_for_all_is_not_made_by_chunks():
    met.clear()
    judged = run(["tests.helpers.eval_models:universal"])
    assert met == [int(judged.examples.correct.sum())]


@pytest.mark.slow
def test_a_random_model_is_not_attacked_by_chunks():
    """Its draws depend on the batch, and its accuracy under noise is measured on the attempts on all samples."""
    noisy = averaged(Masked(make_net(), lambda x: x + 0.02 * torch.randn_like(x)).eval(), draws=2)
    whole, large = (run("pgd(steps=2)", model=noisy, large=large, examples="") for large in (False, True))
    assert comparable(large) == comparable(whole)
    assert large.evaluation.under_noise is not None
    assert large.evaluation.under_noise == whole.evaluation.under_noise
    assert large.examples.x_adv.kept.all()


def unsure(images, logits):
    return -logits.softmax(1).amax(1)


@pytest.mark.parametrize("examples", ["", "broken"])
def test_a_detector_finds_the_attempts_that_it_is_asked_about(examples, monkeypatch):
    monkeypatch.setattr("robustcls.evaluation.checks._check.SAMPLES", 1)
    monkeypatch.setattr("robustcls.evaluation.checks._check.PASSIVE", 1)
    monkeypatch.setattr("robustcls.evaluation.checks.finite_gradients.LOOKED", 1)
    model = make_net()
    detector = make_detector(unsure, 0.5, model, make_batch(200)[0][60:])
    whole, few = (run("fgsm", model=model, detector=detector, large=large, examples=examples) for large in (0, 1))
    assert comparable(few) == comparable(whole)
    assert few.evaluation.rejection.caught > 0
    assert few.examples.x_adv.kept[few.examples.robust].all()
    assert few.examples.x_adv.kept[few.examples.success].all() == (examples == "broken")


@pytest.mark.parametrize("examples", ["", "broken"])
def test_what_nothing_needs_is_not_kept(examples, tmp_path, monkeypatch):
    monkeypatch.setattr("robustcls.evaluation.checks._check.PASSIVE", 4)
    monkeypatch.setattr("robustcls.evaluation.checks.finite_gradients.LOOKED", 4)
    monkeypatch.setattr("robustcls.evaluation.checks._check.SAMPLES", 16)
    whole, few = run(large=False), run(examples=examples)
    assert comparable(few) == comparable(whole)
    kept, success = few.examples.x_adv.kept, few.examples.success
    assert success[~kept].any() == (examples == "")
    assert int((kept & ~success).sum()) <= 4 + 16
    torch.testing.assert_close(few.examples.x_adv[kept], whole.examples.x_adv[kept])
    assert few.examples.x_adv.end <= int(kept.sum()) + CHUNK, "the file holds at most the kept images and one chunk"
    if examples == "broken":
        for judged, name in ((whole, "a"), (few, "b")):
            assert judged.examples.save(tmp_path / f"{name}.npz") == int(success.sum())
        one, other = (dict(np.load(tmp_path / f"{name}.npz")) for name in "ab")
        assert one.keys() == other.keys() == {"x", "x_adv", "y", "index", "broken_by"}
        assert one["x"].dtype == np.float32
        for name in one:
            assert one[name].dtype == other[name].dtype
            assert np.array_equal(one[name], other[name]) or np.allclose(one[name], other[name], atol=1e-6), name
    else:
        with pytest.raises(RuntimeError, match="not to be kept"):
            few.examples.save(tmp_path / "all.npz")


@pytest.mark.slow
@pytest.mark.parametrize("examples", ["", "broken", "all"])
@pytest.mark.parametrize("batches", [1, 5, 11, 30])
def test_resumed_equals_uninterrupted(batches, examples, tmp_path):
    """Samples and kept images are equal bit for bit, and finished work is not repeated."""
    whole, folder = run(NEAREST, examples=examples), tmp_path / "e.partial"
    with pytest.raises(Cut):
        run(NEAREST, examples=examples, journal=Journal(folder, resume=False), progress=cut_after(batches))
    passes = []
    forward = Counted.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Counted, "forward", lambda self, x: passes.append(len(x)) or forward(self, x))
        again = run(NEAREST, examples=examples, journal=Journal(folder, resume=True))
        resumed = sum(passes)
        passes.clear()
        run(NEAREST, examples=examples)
    assert without_times(again) == without_times(whole)
    kept = whole.examples.x_adv.kept
    assert torch.equal(again.examples.x_adv.kept, kept)
    assert torch.equal(again.examples.x_adv[kept], whole.examples.x_adv[kept])
    assert torch.equal(again.examples.margin, whole.examples.margin)
    assert resumed < sum(passes)


def test_of_a_finished_chunk_its_batches_are_not_kept(tmp_path):
    with pytest.raises(Cut):
        run(journal=Journal(tmp_path / "e", resume=False), progress=cut_after(14))
    names = [file.stem for file in (tmp_path / "e").glob("*.pt")]
    chunks = [name for name in names if name.startswith("chunk")]
    assert f"chunk-0-{CHUNK - 1}" in chunks
    assert all(int(name.split("-")[1]) >= CHUNK * len(chunks) for name in names if name not in chunks)


def test_another_process_may_write_of_the_next_chunk_as_soon_as_it_is_let_go(tmp_path):
    class Waiting(World):
        def wait(self):
            (tmp_path / "0-7.pt").touch()

    (tmp_path / "0-0.pt").touch()
    Journal(tmp_path, resume=False, world=Waiting()).write_chunk(torch.arange(CHUNK), {})
    assert sorted(file.stem for file in tmp_path.glob("*.pt")) == ["0-7", f"chunk-0-{CHUNK - 1}"]


def test_a_journal_for_other_examples_is_refused(tmp_path):
    with pytest.raises(Cut):
        run(journal=Journal(tmp_path / "e", resume=False), progress=cut_after(8), examples="")
    with pytest.raises(Exception, match="another choice of examples to keep"):
        run(journal=Journal(tmp_path / "e", resume=True), examples="broken")


def test_an_attack_that_fails_is_recorded_once_and_the_others_go_on():
    whole, chunks = (run(["fgsm", "tests.helpers.eval_models:raises", "pgd(steps=3)"], large=large) for large in (0, 1))
    assert [one.error for one in chunks.evaluation.attacks] == ["", "RuntimeError: two", ""]
    assert comparable(chunks) == comparable(whole)


COMMAND = """
import sys
from robustcls.evaluation import cascade
from robustcls.runtime import stored
from tests.helpers.short_checks import shorten_checks
stored.LARGE, stored.MAPPED, cascade.CHUNK = 1, 1, 30
shorten_checks()
from robustcls.cli.main import main
sys.exit(main())
"""


def command(folder, *flags):
    return [
        sys.executable, "-c", COMMAND, "attack", "--model", "tests.helpers.large_images:net", "--data",
        "tests.helpers.large_images:images(n=120, side=16)", "--eps", "0.02", "-n", "all", "--batch-size", "10", "--out",
        str(folder / "e.json"), "--save-examples", str(folder / "e.npz"), *flags,
    ]  # fmt: skip


@pytest.mark.slow
def test_resumed_after_sigkill_to_the_same_result(tmp_path):
    """The command is killed in the middle of a later chunk."""
    (tmp_path / "whole").mkdir()
    subprocess.run(command(tmp_path / "whole", "--quiet"), check=True, capture_output=True)
    child = subprocess.Popen(command(tmp_path, "--quiet"), stdout=subprocess.DEVNULL)
    journal = tmp_path / "e.json.partial"
    while child.poll() is None and not (
        list(journal.glob("chunk-*.pt")) and any(file.stem[0] in "01" for file in journal.glob("*.pt"))
    ):
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "the process must be killed before it ends"
    subprocess.run(command(tmp_path, "--quiet", "--resume"), check=True, capture_output=True)
    one, other = (Evaluation.load(folder / "e.json") for folder in (tmp_path, tmp_path / "whole"))
    whole, resumed = (without_times(Evaluated(None, evaluation)) for evaluation in (other, one))
    assert resumed == whole
    assert whole["attacks"][0]["forwards"] > 0
    saved, expected = (dict(np.load(folder / "e.npz")) for folder in (tmp_path, tmp_path / "whole"))
    assert all(np.array_equal(saved[name], expected[name]) for name in expected)
    assert len(saved["x_adv"]) > 0


SHARED = """
import runpy
from robustcls.evaluation import cascade
from robustcls.runtime import stored
from tests.helpers.short_checks import shorten_checks
stored.LARGE, stored.MAPPED, cascade.CHUNK = 1, 1, 30
shorten_checks()
runpy.run_module("robustcls", run_name="__main__")
"""


@pytest.mark.slow
def test_two_processes_share_the_chunks_to_the_result_of_one(tmp_path, monkeypatch):
    """Samples, passes and adversarial images of one process equal those of two processes."""
    for module, name, value in ((stored, "LARGE", 1), (stored, "MAPPED", 1), (cascade, "CHUNK", 30)):
        monkeypatch.setattr(module, name, value)
    (tmp_path / "shared.py").write_text(SHARED, encoding="utf-8")
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        options = command(folder, "--quiet", "--attack", "fgsm", "--attack", "apgd_ce(steps=5)")[3:]
        if processes == 1:
            with pytest.raises(SystemExit) as caught:
                main(options)
            assert not caught.value.code
        else:
            done = forked((2,), str(tmp_path / "shared.py"), *options, cwd=ROOT)
            assert done.returncode == 0, done.stderr
        evaluation, images = Evaluation.load(folder / "e.json"), dict(np.load(folder / "e.npz"))
        found.append((without_times(Evaluated(None, evaluation)), images))
    (one, images), (two, others) = found
    assert two == one
    assert all(attack["forwards"] > 0 for attack in one["attacks"])
    assert 0 < len(images["x_adv"]) < 120
    assert all(np.array_equal(images[name], others[name]) for name in images)


MEMORY = """
import sys
from robustcls.evaluation import cascade
from robustcls.runtime import stored
from tests.helpers.short_checks import shorten_checks
stored.LARGE, cascade.CHUNK = {large}, 100
shorten_checks()
from robustcls.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code
# Not ru_maxrss, which begins with what the process that started this one has had.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(1024 * int(peak.split()[1]), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_memory_grows_by_eight_bits_an_image(tmp_path):
    def peak(n, large):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY.format(large=large), "attack", "--model", "tests.helpers.large_images:net",
             "--data", f"tests.helpers.large_images:images(n={n}, side=96)", "--attack", "apgd_ce(steps=2)", "--eps", "0.0001",
             "-n", "all", "--batch-size", "20", "--quiet", "--out", str(tmp_path / f"{n}-{large}.json")],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return int(done.stderr.split()[-1])

    pixels = 2000 * 3 * 96 * 96
    assert peak(2300, 1 << 60) - peak(300, 1 << 60) > 6 * pixels, (
        "images and attempts in float32 are eight times the pixels"
    )
    assert peak(2300, 1) - peak(300, 1) < 2 * pixels
