"""Training with one call: on tensors and the user's own modules, resumed, and without side effects on the process."""

import copy
import threading

import pytest
import torch

from robustcls.core.config import read_toml
from robustcls.core.errors import InputError
from robustcls.data.splits import hold_out, load_split, load_training_data
from robustcls.training.loop import Interrupted
from robustcls.training.recipe import configure
from robustcls.training.train import begin, train
from tests.helpers.tiny_run import TIMES, CutError, same, small_cnn

OPTIONS = {
    "epochs": 2, "batch_size": 32, "eps": "0.15", "adv": "fgsm", "val_n": 16, "val_attack": "fgsm", "augment": "none",
    "device": "cpu", "precision": "fp32", "quiet": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    images = load_split("digits(size=8)", "train", n=160)
    return images, images.batch()


def options(folder, **more):
    return configure({**OPTIONS, "out": str(folder), **more})


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_tensors_and_a_module_of_ones_own(digits, tmp_path):
    net = small_cnn(10, (1, 8, 8))
    net.eval()
    before, seen = weights(net), []
    result = train(options(tmp_path / "run"), data=digits[1], arch=net, on_epoch=lambda row: seen.append(row.epoch))
    assert seen == [1, 2] == [row.epoch for row in result.history]
    assert same(before, weights(net))  # a copy was trained
    assert not net.training
    assert (result.folder, result.stopped) == (tmp_path / "run", "")
    assert result.best_epoch in (1, 2)
    saved = torch.load(result.folder / "ckpt.pt", weights_only=True)
    assert same(saved["state_dict"], weights(result.model.net))
    assert not result.model.training
    assert result.model(digits[1][0][:3]).shape == (3, 10)
    assert same(before, weights(net))


def test_a_function_and_images_are_taken_as_specs_are(digits, tmp_path):
    task = {"given": {"lr", "batch_size"}}  # a recipe would set these, and images have none
    spec = {"data": "digits(size=8)", "limit_train": 160, "arch": "tests.helpers.tiny_run:small_cnn", "lr": 0.05}
    by_spec = train(options(tmp_path / "a", **spec), **task)
    images = load_training_data("digits(size=8)", limit_train=160)
    by_hand = train(options(tmp_path / "b", lr=0.05), data=images, arch=small_cnn, **task)
    for one, other in zip(by_spec.history, by_hand.history, strict=True):
        assert (one.train_loss, one.val_robust) == (other.train_loss, other.val_robust)
    assert same(weights(by_spec.model.net), weights(by_hand.model.net))
    assert (by_spec.config.data, by_hand.config.data) == ("digits(size=8)", "python")


def test_tensors_are_divided_as_a_data_set_is(digits):
    whole = load_split("digits(size=8)", "train", n=None)
    spec = load_training_data("digits(size=8)", seed=3, limit_train=100)
    val = load_split("digits(size=8)", "val", seed=3)
    rest = load_split("digits(size=8)", "train", seed=3)
    pixels, labels = torch.cat([val.pixels, rest.pixels]), torch.cat([val.labels, rest.labels])
    order = torch.cat([val.index, rest.index]).argsort()
    whole = type(whole)(pixels[order], labels[order], whole.classes, "whole")
    for one, other in zip(spec, hold_out(whole, seed=3, limit_train=100), strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)


def test_such_a_run_says_what_came_from_python_and_goes_on_with_it(digits, tmp_path):
    net = small_cnn(10, (1, 8, 8))

    def cut(run):
        if run.state.epoch == 1:
            raise CutError

    straight = train(options(tmp_path / "straight"), data=digits[1], arch=copy.deepcopy(net))
    with pytest.raises(CutError):
        train(options(tmp_path / "run"), data=digits[1], arch=copy.deepcopy(net), on_batch=cut)
    text = (tmp_path / "run" / "config.toml").read_text()
    assert "# data and arch came from Python\n" in text
    assert read_toml(tmp_path / "run" / "config.toml")["data"] == "python"
    with pytest.raises(
        InputError, match=r"began in Python with its own data and arch: resume it there, .*data=.*arch="
    ) as caught:
        train(resume=tmp_path / "run")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="with its own arch: "):
        train(resume=tmp_path / "run", data=digits[1])
    again = train(resume=tmp_path / "run", data=digits[1], arch=small_cnn(10, (1, 8, 8)))
    assert same(weights(straight.model), weights(again.model))
    one, other = (torch.load(run.folder / "last.pt", weights_only=True) for run in (straight, again))
    for key in one.keys() - {"meta"}:
        assert same(one[key], other[key], TIMES), key


def test_the_command_says_in_one_line_what_a_resume_needs(digits, tmp_path, capsys):
    from robustcls.cli.main import main

    train(options(tmp_path / "run", epochs=1), data=digits[1], arch=small_cnn)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--resume", str(tmp_path / "run")])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "began in Python with its own data and arch" in said


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((torch.rand(20, 8, 8), torch.arange(20) % 10), "N,C,H,W"),
        ((torch.rand(20, 1, 8, 8) * 255, torch.arange(20) % 10), "float images lie in"),
        ((torch.rand(20, 1, 8, 8), torch.arange(19) % 10), "labels of shape"),
        ((torch.rand(10, 1, 8, 8), torch.arange(10)), "too few to hold out"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused_before_anything_is_written(data, words, tmp_path):
    with pytest.raises(InputError, match=words):
        train(options(tmp_path / "run"), data=data, arch=small_cnn)
    assert not (tmp_path / "run").exists()


def test_without_options_or_a_run_there_is_nothing_to_train():
    with pytest.raises(InputError, match="nothing to train"):
        train()


# The process is unchanged


def dropout_net(num_classes, input_size):
    return torch.nn.Sequential(small_cnn(32, input_size), torch.nn.Dropout(0.5), torch.nn.Linear(32, num_classes))


def test_the_random_streams_of_the_caller_are_left_alone(digits, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = train(options(tmp_path / "a", ema=0.9), data=digits[1], arch=dropout_net)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(6)
    second = train(options(tmp_path / "b", ema=0.9), data=digits[1], arch=dropout_net)
    assert [row.train_loss for row in first.history] == [row.train_loss for row in second.history]
    torch.manual_seed(5)
    minutes = options(tmp_path / "c", minutes=0.01, epochs=None)
    with begin(minutes, data=digits[1], arch=dropout_net, dry_run=True):  # measures the speed
        assert not (tmp_path / "c").exists()
    assert torch.equal(torch.rand(3), expected)


def test_a_thread_trains_without_signal_handlers(digits, tmp_path):
    """Python lets only the main thread set signal handlers, but a server or a notebook may train in another thread."""
    found = []

    def work():
        found.append(train(options(tmp_path / "run", epochs=1), data=digits[1], arch=small_cnn))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(found[0].history) == 1


def test_ctrl_c_saves_and_raises(digits, tmp_path):
    import os
    import signal

    def stop(run):
        if run.state.batch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        train(options(tmp_path / "run"), data=digits[1], arch=small_cnn, on_batch=stop)
    assert caught.type is Interrupted
    progress = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["progress"]
    assert (progress["epoch"], progress["batch"]) == (0, 2)


def test_nobody_else_trains_in_the_folder_meanwhile(digits, tmp_path):
    task = {"data": digits[1], "arch": small_cnn}
    with begin(options(tmp_path / "run"), **task) as run:
        assert (run.state.epoch, run.resumed) == (0, False)
        with pytest.raises(InputError):
            train(options(tmp_path / "run"), **task)
