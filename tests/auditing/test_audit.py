"""An audit of digits finds planted errors, and almost nothing where none were planted."""

import json
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import average_precision_score

from robustcls.auditing.audit import audit_data
from robustcls.auditing.confident import find_label_errors
from robustcls.auditing.folds import divide, fold_options, probabilities_of
from robustcls.core.errors import InputError
from robustcls.data.splits import load_split
from robustcls.results.audit import BOUNDARY, LABEL_ERROR, TWO_LABELS, Audit


def precision_of(probabilities, labels, wrong) -> float:
    return average_precision_score(wrong.numpy(), find_label_errors(probabilities, labels).ratio.numpy())


def test_finds_planted_errors(planted, audited):
    images, wrong = planted
    found, folds = audited
    assert precision_of(folds.probabilities, images.labels, wrong) > 0.9
    hits = sum(bool(wrong[one.index]) for one in found.issues)
    assert hits / len(found.issues) > 0.8
    assert hits / int(wrong.sum()) > 0.6
    assert all(one.label == images.labels[one.index] != one.guess for one in found.issues)
    assert [one.odds for one in found.issues] == sorted((one.odds for one in found.issues), reverse=True)
    p = folds.probabilities[found.issues[0].index].double()
    label = found.issues[0].label
    others = p[torch.arange(10) != label].max()
    assert found.issues[0].odds == pytest.approx((others / p[label]).item(), rel=1e-4)
    assert found.issues[0].score == pytest.approx((p[label] - others).item(), abs=1e-5)


def test_guesses_what_was_there_before(planted, digits, audited):
    issues = [one for one in audited[0].issues if planted[1][one.index]]
    right = sum(one.guess == digits.labels[one.index] for one in issues)
    assert right / len(issues) > 0.9


def test_finds_little_where_nothing_was_planted(digits, config):
    found, _ = audit_data(replace(config, attack="none", minimum="none"), digits)
    assert len(found.issues) < 0.02 * len(digits)
    assert found.attacked == 0
    assert found.boundary == []
    assert found.threat is None
    assert all(pair.attacked is None for pair in found.pairs)


def by_heart(images, rows) -> torch.nn.Module:
    """Return a net that is trained until it has memorised the labels of these images. The audit's own models, which
    validation selects, have not."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    x, y = images.batch(rows)
    for _ in range(300):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.eval()


def test_predictions_of_what_a_model_has_seen_do_worse(planted):
    images, wrong = planted
    everything, fold = torch.arange(len(images)), divide(images.labels, 2, 0)
    seen = probabilities_of(by_heart(images, everything), images)
    assert (seen.argmax(1) == images.labels).float().mean() > 0.99
    unseen = torch.zeros_like(seen)
    for number in range(2):
        inside = (fold == number).nonzero().squeeze(1)
        unseen[inside] = probabilities_of(by_heart(images, (fold != number).nonzero().squeeze(1)), images.take(inside))
    worse, better = (precision_of(p, images.labels, wrong) for p in (seen, unseen))
    assert worse < better
    hidden, found = (find_label_errors(p, images.labels).issue & wrong for p in (seen, unseen))
    assert hidden.sum() < 0.1 * wrong.sum()
    assert found.sum() > 0.6 * wrong.sum()


def test_the_record(planted, audited, tmp_path):
    found, folds = audited
    images = planted[0]
    assert found.accuracy.correct == int((folds.probabilities.argmax(1) == images.labels).sum())
    assert found.epochs == [8, 8]
    assert found.attacked == 40
    assert found.notes == []
    first = found.pairs[0]
    of_label = images.labels == first.label
    assert first.clean.total == int(of_label.sum())
    assert first.clean.correct == int((folds.probabilities[of_label].argmax(1) == first.guess).sum())
    assert [one.clean.correct for one in found.pairs] == sorted(
        (one.clean.correct for one in found.pairs), reverse=True
    )
    assert sum(map(sum, found.joint)) <= len(images)
    found.save(tmp_path / "audit.json")
    assert Audit.load(tmp_path / "audit.json") == found


def test_older_records_without_odds_still_load(audited, tmp_path):
    whole = json.loads(audited[0].to_json())
    for one in (*whole["issues"], *whole["boundary"], *whole["suggestions"]):
        del one["odds"]
    (tmp_path / "audit.json").write_text(json.dumps(whole), encoding="utf-8")
    old = Audit.load(tmp_path / "audit.json")
    assert old.issues[0].odds is None
    assert old.issues[0].said == f"{old.issues[0].score:.3g}"
    assert audited[0].issues[0].said.endswith(":1 against the label")


def test_models_that_err_often_are_not_believed(digits, config):
    draws = torch.Generator().manual_seed(0)
    images = digits.take(torch.arange(300))
    noise = replace(images, labels=torch.randint(0, 10, (300,), generator=draws))
    found, _ = audit_data(replace(config, epochs=1, attack="none", minimum="none"), noise)
    assert found.notes[0].startswith(f"the models predict {found.accuracy.accuracy:.0%} of the labels and take ")
    assert "most of these are likely errors of the models" in found.notes[0]


def test_says_why_a_split_is_not_searched(config):
    options = replace(config, data="tests.auditing.test_audit:unlike", attack="none", minimum="none", epochs=1)
    found, _ = audit_data(options)
    assert found.searched == ["train"]
    said = "duplicates were not searched for in test: images of train and test are of 1x8x8 and 1x16x16"
    assert said in found.notes


def unlike(split):
    """Return digits whose test images are larger."""
    images = load_split("digits(size=8)", split).take(torch.arange(300))
    pixels = images.pixels.repeat_interleave(2, 2).repeat_interleave(2, 3) if split == "test" else images.pixels
    return pixels, images.labels, images.classes


def test_the_boundary(planted, audited):
    found, folds = audited
    assert 20 < len(found.boundary) <= 30
    assert [one.score for one in found.boundary] == sorted(one.score for one in found.boundary)
    assert all(one.score > 0 and one.guess != one.label for one in found.boundary)
    predicted = folds.probabilities.argmax(1)
    assert all(predicted[one.index] == one.label for one in found.boundary)


def test_what_predicted_is_what_is_attacked(planted, config):
    """If training flips images, predictions average over an image and its mirror image, and so must the attacked model. Then
    every image that is classified correctly has a distance above 0."""
    images = replace(planted[0].take(torch.arange(400)), flip=True)
    found, folds = audit_data(replace(config, data=None, epochs=2, attack_n=400, eps="1e-6", minimum_n=150), images)
    for number, model in enumerate(folds.models):
        rows = (folds.fold == number).nonzero().squeeze(1)
        torch.testing.assert_close(probabilities_of(model, images.take(rows)), folds.probabilities[rows])
    assert found.attacked == 400
    assert all(pair.clean == pair.attacked for pair in found.pairs), "the radius is too small to change a class"
    assert len(found.boundary) > 20
    assert all(one.score > 0 for one in found.boundary)


def test_suggestions_begin_with_errors_and_name_no_image_twice(audited):
    found = audited[0]
    assert len(found.suggestions) == 100
    assert len({one.index for one in found.suggestions}) == 100
    reasons = [one.reason for one in found.suggestions]
    assert reasons[0] == LABEL_ERROR
    assert reasons.index(BOUNDARY) == len(found.issues)
    pixels = found.suggestions[0].picture.decode()
    assert pixels.shape == (1, 8, 8)


def test_pairs_into_which_attacks_go_are_kept_too(audited):
    found = audited[0]
    attacked = sum(pair.attacked.correct for pair in found.pairs)
    assert attacked > 0.3 * found.attacked
    assert len({(pair.label, pair.guess) for pair in found.pairs}) == len(found.pairs) > 20


def test_attacks_confuse_more(audited):
    """Over all pairs of classes, more images are taken for the other class under attack than without an attack."""
    pairs = [pair for pair in audited[0].pairs if pair.attacked]
    clean = sum(pair.clean.correct for pair in pairs) / sum(pair.clean.total for pair in pairs)
    attacked = sum(pair.attacked.correct for pair in pairs) / sum(pair.attacked.total for pair in pairs)
    assert attacked > 2 * clean


def test_images_from_python_are_not_trained_on_by_the_recipe_of_digits(digits, config, monkeypatch):
    seen = []

    def spy(images, options, given, **more):
        seen.append((options.data, options.augment))
        raise InputError("seen")

    monkeypatch.setattr("robustcls.auditing.folds.train_on", spy)
    for data in (None, "digits"):
        with pytest.raises(InputError, match="seen"):
            audit_data(replace(config, data=data), digits)
    assert seen == [("python", "crop_flip+mixup"), ("digits", "mixup")]


def test_duplicates_under_two_labels_come_first(digits, config):
    double = digits.take(torch.cat([torch.arange(300), torch.tensor([7])]))
    labels = double.labels.clone()
    labels[-1] = (labels[7] + 1) % 10
    images = replace(double, labels=labels, index=torch.arange(301))
    found, folds = audit_data(replace(config, attack="none", minimum="none", epochs=2), images)
    assert [[copy.index for copy in group.images] for group in found.duplicates if group.exact] == [[7, 300]]
    assert found.duplicates[0].two_labels
    assert {one.index for one in found.suggestions[:2]} == {7, 300}
    assert {one.reason for one in found.suggestions[:2]} == {TWO_LABELS}
    assert folds.fold[7] == folds.fold[300]


def test_as_many_epochs_as_there_is_time(digits, config):
    found, _ = audit_data(replace(config, epochs=None, minutes=1e-5, attack_n=40), digits.take(torch.arange(200)))
    assert found.epochs == [1, 1]
    assert any("one epoch" in note for note in found.notes)
    assert any("before all images were attacked" in note for note in found.notes)
    assert found.attacked == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"minimum": "pgd"}, "does not search for the nearest example"),
        ({"attack": "pgdd"}, "did you mean"),
        ({"attack": "fmn", "norm": "l0", "eps": 3}, "l0"),
    ],
)
def test_refuses_attacks_that_do_not_fit(digits, config, options, said):
    with pytest.raises(InputError, match=said):
        audit_data(replace(config, **options), digits)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"folds": 1}, "`folds=1` is out of range: give 2 to 4"),
        ({"folds": 5}, "`folds=5` is out of range"),
        ({"minutes": 0.0}, "`minutes=0` is out of range"),
        ({"suggest": 0}, "`suggest=0` is too small"),
    ],
)
def test_refuses_options_out_of_range(config, options, said):
    with pytest.raises(InputError, match=said):
        replace(config, **options)


def test_refuses_a_class_too_small_for_the_folds(digits, config):
    few = torch.cat([(digits.labels != 3).nonzero().squeeze(1), (digits.labels == 3).nonzero().squeeze(1)[:2]])
    with pytest.raises(InputError, match="class “3” has 2 training images, too few different ones for 2 folds"):
        audit_data(config, digits.take(few.sort().values))


def test_a_recipe_must_leave_the_audit_its_own(config, tmp_path):
    recipe = tmp_path / "recipe.toml"
    for name, value in (("objective", "trades"), ("unlabelled", "folder:photos")):
        recipe.write_text(f'lr = 0.05\naugment = "none"\n{name} = "{value}"\n', encoding="utf-8")
        with pytest.raises(InputError, match=f"the audit itself sets {name}"):
            fold_options(replace(config, recipe=str(recipe)))
    recipe.write_text('lr = 0.05\naugment = "affine"\n', encoding="utf-8")
    options, given = fold_options(replace(config, recipe=str(recipe)))
    assert (options.lr, options.augment, options.adv) == (0.05, "affine", "none")
    assert {"lr", "augment"} <= given
