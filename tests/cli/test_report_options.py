"""`robustcls report`: profiles, policy, model card, assets, index."""

import json
import shutil

import numpy as np
import pytest

from robustcls.cli.report import configure
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.evaluation.profiles import PROFILES
from robustcls.results.records import Evaluation


@pytest.fixture
def checkpoint(home, tmp_path):
    """Return the name of a copy of a checkpoint; tests may write evaluations beside the copy."""
    shutil.copy(home / "pgd" / "ckpt.pt", tmp_path / "here" / "pgd.pt")
    return "pgd.pt"


def test_a_profile_gives_way_to_the_file_and_the_file_to_flags(tmp_path):
    file = tmp_path / "options.toml"
    file.write_text('profile = "quick"\nexamples = 5\nn = 60\nminimum-n = 3\n', encoding="utf-8")
    config = configure({"n": "70"}, str(file))
    assert (config.profile, config.examples, config.n, config.minimum_n) == ("quick", 5, "70", 3)
    assert config.corruptions_n == PROFILES["quick"]["corruptions_n"] == 0
    assert configure({"profile": "full"}, str(file)).profile == "full"


def test_the_full_profile_corrupts_no_more_images_than_take_an_hour():
    assert configure({"profile": "full"}, None).corruptions_n == 1000


def test_named_attacks_replace_the_suite_of_a_profile():
    assert configure({"profile": "full"}, None).suite == "standard"
    assert configure({"profile": "full", "attack": ("fgsm",)}, None).suite is None
    assert configure({"profile": "quick", "suite": "fast"}, None).attack == ()


@pytest.mark.parametrize(("file", "flag"), [("suite", "attack"), ("attack", "suite")])
def test_a_flag_for_attacks_overrides_suite_and_attacks_of_the_file(tmp_path, file, flag):
    given = {"suite": "standard", "attack": ["fgsm"]}
    options = tmp_path / "options.toml"
    options.write_text(f"{file} = {json.dumps(given[file])}\n", encoding="utf-8")
    config = configure({flag: given[flag]}, str(options))
    assert bool(config.suite) == (flag == "suite")
    assert bool(config.attack) == (flag == "attack")


def test_unknown_profiles_name_the_nearest(tmp_path):
    file = tmp_path / "options.toml"
    file.write_text('profile = "standart"\n', encoding="utf-8")
    with pytest.raises(InputError, match="'standard'"):
        configure({}, str(file))


@pytest.mark.slow
def test_what_a_profile_leaves_out_is_not_run_with_its_reason(cli, checkpoint, tmp_path):
    result = cli("report", "--model", checkpoint, "--profile", "quick", "--n", 30, "--quiet")
    assert (result.status, result.out, result.err) == (0, "report.html\n", "")
    evaluation = Evaluation.load("evaluation.json")
    assert evaluation.profile == "quick"
    assert evaluation.calibration is not None
    for section in ("other_curves", "minimum", "corruptions", "diagnostics"):
        assert "profile quick" in evaluation.not_run[section]
    assert evaluation.curve is evaluation.corruptions is evaluation.other_curves is None
    page = (tmp_path / "here" / "report.html").read_text(encoding="utf-8")
    assert "left out by --corruptions-n 0 (--profile quick)" in page


@pytest.fixture
def slow(monkeypatch):
    """Make every model appear to take ten seconds per gradient."""
    from robustcls.evaluation import budget
    from robustcls.evaluation.pace import Pace

    monkeypatch.setattr(
        budget, "measure_pace", lambda *_, **__: Pace(0.001, 10.0, {"saliency": 0.001, "gradcam": 0.001})
    )


@pytest.mark.slow
def test_quick_takes_fewer_samples_of_a_slow_model_and_says_so(cli, checkpoint, tmp_path, slow):
    result = cli("report", "--model", checkpoint, "--profile", "quick", "--attack", "fgsm")
    assert result.status == 0, result.err
    evaluation = Evaluation.load("evaluation.json")
    assert evaluation.data.n == len(evaluation.samples) == 4
    assert evaluation.data.available > 4
    reason = "reduced from n = 100 to n = 4 to keep the budget of 2 minutes"
    assert evaluation.reduced["attacks"] == reason
    said = " ".join(result.err.split())
    assert "attacks: 4 samples, at most about 1 min 32 s, of the budget of 2 minutes, after which" in said
    assert f"; {reason}" in said
    assert "attribution maps of examples: 4 samples, about " in said
    assert reason in (tmp_path / "here" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_where_the_fewest_samples_may_take_longer_it_is_not_called_kept(cli, checkpoint, slow):
    result = cli("report", "--model", checkpoint, "--profile", "quick", "--attack", "pgd(steps=100)")
    assert result.status == 0, result.err
    said = " ".join(result.err.split())
    assert "of the budget of 2 minutes, after which they are stopped, and the evaluation says so; reduced from" in said
    assert "n = 4, the fewest, for the budget of 2 minutes" in said
    assert "to keep" not in Evaluation.load("evaluation.json").reduced["attacks"]


@pytest.mark.parametrize("more", [(), ("--n", 8)])
def test_a_budget_that_holds_no_step_is_refused_before_anything_is_written(more, cli, checkpoint, tmp_path, slow):
    before = sorted((tmp_path / "here").rglob("*"))
    result = cli("report", "--model", checkpoint, "--suite", "standard", "--minutes", 0.3, *more)
    assert (result.status, result.err.count("\n"), result.out) == (2, 1, "")
    assert "the budget of 0.3 minutes is too little for pgd.pt" in result.err
    assert ("fewer samples with --n" in result.err) == bool(more)
    assert sorted((tmp_path / "here").rglob("*")) == before


@pytest.mark.slow
def test_the_number_of_samples_that_was_asked_for_wins_over_the_budget(cli, checkpoint, slow):
    assert (
        cli("report", "--model", checkpoint, "--profile", "quick", "--attack", "fgsm", "--n", 12, "--quiet").status == 0
    )
    evaluation = Evaluation.load("evaluation.json")
    assert evaluation.data.n == 12
    assert "attacks" not in evaluation.reduced


def test_models_of_one_report_keep_the_same_samples(cli, checkpoint, home, tmp_path, monkeypatch):
    from robustcls.evaluation import budget
    from robustcls.evaluation.pace import Pace

    paces = iter([Pace(0.001, 0.001), Pace(0.001, 4.0)])
    monkeypatch.setattr(budget, "measure_pace", lambda *_, **__: next(paces))
    shutil.copy(home / "standard" / "ckpt.pt", tmp_path / "here" / "standard.pt")
    options = ("--profile", "quick", "--attack", "fgsm", "--examples", 0, "--maps-n", 0, "--quiet")
    result = cli("report", "--model", checkpoint, "--model", "standard.pt", *options)
    assert result.status == 0, result.err
    both = [Evaluation.load(f"evaluation-{name}.json") for name in ("pgd", "standard")]
    assert both[0].data.n == both[1].data.n < 100
    assert both[0].data.sha256 == both[1].data.sha256
    assert all("n = 100" in one.reduced["attacks"] for one in both)


def test_published_images_that_do_not_fit_are_refused_before_the_attacks(cli, checkpoint, tmp_path):
    folder = tmp_path / "here" / "published"
    folder.mkdir()
    np.save(folder / "labels.npy", np.arange(10) % 10)
    for name in plugins.names("corruption"):
        np.save(folder / f"{name}.npy", np.zeros((10, 32, 32, 3), dtype=np.uint8))
    options = ("--profile", "quick", "--corruptions-n", 4, "--corruptions-from", "published", "--n", 20)
    result = cli("report", "--model", checkpoint, *options)
    assert result.status == 2
    assert "images of 3x32x32, but the model was evaluated on 1x" in result.err
    assert not (tmp_path / "here" / "evaluation.json").exists()


@pytest.mark.slow
def test_the_standard_profile_fills_every_section(cli, checkpoint, tmp_path):
    small = ("--n", 40, "--attack", "pgd(steps=5)", "--examples", 4, "--maps-n", 4, "--method", "saliency")
    small += ("--curves-n", 10, "--minimum-n", 10, "--corruptions-n", 10)
    result = cli("report", "--model", checkpoint, *small)
    assert result.status == 0, result.err
    evaluation = Evaluation.load("evaluation.json")
    assert evaluation.not_run.keys() == {"artefact"}  # the model is a checkpoint
    assert evaluation.curve[0].eps == 0
    assert {one.norm for one in evaluation.other_curves} == {"l2", "l1"}
    assert {one.norm for one in evaluation.minimum} == {"linf", "l2", "l1", "l0"}
    assert len(evaluation.corruptions.results) == 75
    assert evaluation.calibration.adversarial.n == 40
    assert max(len(line) for line in result.err.splitlines() if "/" not in line) <= 80


POLICY = 'name = "release"\nmin_clean = 0.80\nmin_robust = 0.40\n'


def test_report_and_gate_give_the_same_verdict_by_one_file(cli, home, tmp_path):
    here = tmp_path / "here"
    (here / "policy.toml").write_text(POLICY, encoding="utf-8")
    for name in ("a", "b", "otherattack"):
        shutil.copy(home / f"{name}.json", here / f"{name}.json")
        gate = cli("gate", f"{name}.json", "--policy", "policy.toml")
        verdict = gate.out.splitlines()[0]
        rendered = cli("report", f"{name}.json", "--policy", "policy.toml", "--out", f"{name}.html")
        assert rendered.status == 0, rendered.err
        page = (here / f"{name}.html").read_text(encoding="utf-8")
        status = page[page.index('<p class="status">') :]
        assert f"</span> {verdict}</span>" in status[:200]


def test_flags_win_over_the_policy_file(cli, home, tmp_path):
    (tmp_path / "here" / "policy.toml").write_text(POLICY, encoding="utf-8")
    shutil.copy(home / "a.json", tmp_path / "here" / "a.json")
    assert cli("gate", "a.json", "--policy", "policy.toml").status == 0
    assert cli("gate", "a.json", "--policy", "policy.toml", "--min-robust", 0.9).status == 1
    cli("report", "a.json", "--policy", "policy.toml", "--min-robust", 0.9)
    assert "FAIL" in (tmp_path / "here" / "report.html").read_text(encoding="utf-8")


def test_a_model_card_lies_beside_each_evaluation(cli, home, tmp_path):
    here = tmp_path / "here"
    shutil.copy(home / "a.json", here / "a.json")
    result = cli("report", "a.json", "--model-card")
    assert result.status == 0, result.err
    written = result.out.split()
    assert written[:2] == ["report.html", "MODEL_CARD.md"]
    assert (here / "MODEL_CARD.md").read_text(encoding="utf-8").startswith("---\n")
    for name in written[2:]:
        json.loads((here / name).read_text(encoding="utf-8"))
    shutil.copy(home / "b.json", here / "b.json")
    result = cli("report", "a.json", "b.json", "--model-card")
    assert {"MODEL_CARD-a.md", "MODEL_CARD-b.md"} <= set(result.out.split())


def test_an_index_lists_the_evaluations_of_a_folder(cli, home, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "here" / "reports" / name).mkdir(parents=True)
        shutil.copy(home / f"{name}.json", tmp_path / "here" / "reports" / name / "evaluation.json")
    result = cli("report", "--index", "reports")
    assert (result.status, result.out) == (0, "reports/index.html\n"), result.err
    page = (tmp_path / "here" / "reports" / "index.html").read_text(encoding="utf-8")
    assert "pgd/ckpt.pt" in page


def test_nothing_to_report_and_options_without_a_model_are_refused(cli, home, tmp_path):
    assert cli("report").status == 2
    shutil.copy(home / "a.json", tmp_path / "here" / "a.json")
    result = cli("report", "a.json", "--profile", "quick")
    assert (result.status, "--profile says how to measure a model" in result.err) == (2, True)


@pytest.mark.slow
def test_an_evaluation_that_is_cut_off_keeps_what_was_there_and_what_was_measured(
    cli, checkpoint, tmp_path, monkeypatch
):
    from robustcls.evaluation.measures.corruptions import measure as corruptions

    here = tmp_path / "here"
    small = (
        "--model",
        checkpoint,
        "--profile",
        "quick",
        "--n",
        20,
        "--method",
        "saliency",
        "--maps-n",
        0,
        "--examples",
        2,
    )
    assert cli("report", *small, "--quiet").status == 0
    before = (here / "evaluation.json").read_bytes()

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(corruptions, "measure", interrupt)
    result = cli("report", *small, "--corruptions-n", 5)
    assert result.status == 130
    assert "kept in evaluation-unfinished.json" in result.err
    assert (here / "evaluation.json").read_bytes() == before
    kept = Evaluation.load("evaluation-unfinished.json")
    assert kept.gallery is not None
    assert "cut off" in kept.not_run["corruptions"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("report", "a.json", "--out", "a.json"), "it is an input of this command"),
        (("report", "a.json", "--out", "MODEL_CARD.md", "--model-card"), "is where the model card goes"),
        (("report", "a.json", "a.json", "--model-card"), "given twice"),
        (("report", "--index", ".", "--out", "x.html"), "--out is about a report"),
        (("gate", "a.json", "--min-clean", 0.2, "--junit", "a.json"), "with --junit"),
        (("attack", "--model", "pgd.pt", "--n", 5, "--attack", "fgsm", "--out", "pgd.pt"), "with --out"),
    ],
)
def test_no_input_is_overwritten(cli, home, checkpoint, tmp_path, arguments, message):
    here = tmp_path / "here"
    shutil.copy(home / "a.json", here / "a.json")
    before = {file.name: file.read_bytes() for file in here.iterdir()}
    result = cli(*arguments)
    assert (result.status, message in result.err) == (2, True), result.err
    assert {file.name: file.read_bytes() for file in here.iterdir()} == before


def test_a_page_of_others_is_not_replaced_by_the_index(cli, home, tmp_path):
    folder = tmp_path / "here" / "reports"
    folder.mkdir()
    (folder / "index.html").write_text("MINE", encoding="utf-8")
    result = cli("report", "--index", "reports")
    assert (result.status, "was not made by robustcls" in result.err) == (2, True)
    assert (folder / "index.html").read_text(encoding="utf-8") == "MINE"
    (folder / "index.html").unlink()
    assert [cli("report", "--index", "reports", "--title", "All").status for _ in range(2)] == [0, 0]
    assert "<h1>All</h1>" in (folder / "index.html").read_text(encoding="utf-8")
