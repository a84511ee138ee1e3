"""An interrupted evaluation resumes where it stopped, and never from another evaluation's journal."""

import json

import pytest
import torch
from torch import nn

from robustcls.core.errors import InputError
from robustcls.evaluation.engine import Engine
from robustcls.evaluation.journal import RENAMED, Journal
from robustcls.runtime.fused import Counted
from tests.helpers.eval_models import judged_batch, make_net, without_times


class Cut(Exception):
    """Raised in place of killing the process."""


def cut_after(batches: int):
    """Return a progress callback that interrupts the evaluation after a number of batches."""
    left = [batches]

    def progress(batches, label, total, standing):
        for batch in batches:
            if left[0] == 0:
                raise Cut
            left[0] -= 1
            yield batch

    return progress


@pytest.mark.parametrize("batches", [0, 2, 4, 6])
@pytest.mark.parametrize("alone", [True, False])
def test_resumed_equals_uninterrupted(batches, alone, tmp_path):
    options = {"alone": alone, "eps_grid": [0.01, 0.04]}
    whole = judged_batch(**options)
    with pytest.raises(Cut):
        judged_batch(journal=Journal(tmp_path / "e.partial", resume=False), progress=cut_after(batches), **options)
    calls = Counted.forward, []

    def count(self, x):
        calls[1].append(len(x))
        return calls[0](self, x)

    Counted.forward = count
    try:
        again = judged_batch(journal=Journal(tmp_path / "e.partial", resume=True), **options)
        resumed = sum(calls[1])
        calls[1].clear()
        judged_batch(**options)
    finally:
        Counted.forward = calls[0]
    assert without_times(again) == without_times(whole)
    assert torch.equal(again.examples.x_adv, whole.examples.x_adv)
    assert (resumed < sum(calls[1])) == (batches > 0), "finished work is not repeated"


def test_a_journal_of_an_earlier_version_is_read(tmp_path):
    folder = tmp_path / "e.partial"
    whole = judged_batch(journal=Journal(folder, resume=False))
    earlier = {name: old for old, name in RENAMED.items()}
    for file in folder.glob("*.pt"):
        content = torch.load(file, weights_only=True)
        torch.save({earlier.get(name, name): value for name, value in content.items()}, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_attack_batch", None)  # fails if anything is attacked again
        assert without_times(judged_batch(journal=Journal(folder, resume=True))) == without_times(whole)


def test_a_journal_of_another_evaluation_is_refused_and_kept(tmp_path):
    folder = tmp_path / "e.partial"
    with pytest.raises(Cut):
        judged_batch(journal=Journal(folder, resume=False), progress=cut_after(2))
    before = sorted(file.name for file in folder.iterdir())
    with pytest.raises(InputError, match="another seed") as caught:
        judged_batch(journal=Journal(folder, resume=True), seed=1)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="another attacks"):
        judged_batch(journal=Journal(folder, resume=True), attacks=["fgsm"])
    assert sorted(file.name for file in folder.iterdir()) == before
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    (folder / "task.json").write_text(json.dumps({k: v for k, v in task.items() if k != "run"}), encoding="utf-8")
    with pytest.raises(InputError, match="left by an earlier version of robustcls: start anew, without `resume`"):
        judged_batch(journal=Journal(folder, resume=True))
    judged_batch(journal=Journal(folder, resume=False), seed=1, attacks=["fgsm"])
    assert sorted(file.name for file in folder.iterdir()) != before, "without --resume, the evaluation starts anew"


def test_a_folder_that_is_not_ours_is_not_removed(tmp_path):
    folder = tmp_path / "e.partial"
    folder.mkdir()
    (folder / "precious").write_text("x")
    journal = Journal(folder, resume=False)
    journal.remove()
    assert (folder / "precious").exists()


def test_a_half_written_batch_is_done_again(tmp_path):
    folder = tmp_path / "e.partial"
    whole = judged_batch(journal=Journal(folder, resume=False))
    for file in folder.glob("*.pt"):
        file.rename(folder / f".{file.name}.123.part")
    assert without_times(judged_batch(journal=Journal(folder, resume=True))) == without_times(whole)


def test_a_journal_of_a_model_with_the_same_weights_and_other_code_is_refused(tmp_path):
    class Halved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_net()

        def forward(self, x):
            return self.net(x / 2)

    class Whole(Halved):
        def forward(self, x):
            return self.net(x)

    Whole.__name__ = "Halved"
    with pytest.raises(Cut):
        judged_batch(Whole(), journal=Journal(tmp_path / "e.partial", resume=False), progress=cut_after(2))
    with pytest.raises(InputError, match="its outputs on the clean images differ"):
        judged_batch(Halved(), journal=Journal(tmp_path / "e.partial", resume=True))
