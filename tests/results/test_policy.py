import dataclasses
import itertools
import re
from statistics import NormalDist

import pytest

from robustcls.core.errors import InputError
from robustcls.evaluation.attacks import name_attacks
from robustcls.evaluation.measures.calibration.record import Calibration, Reliability
from robustcls.evaluation.measures.corruptions.record import Corruptions
from robustcls.results import records
from robustcls.results.policy import Policy, judge, lacking_attacks
from robustcls.results.records import Accuracy, Attack, Check
from robustcls.results.statistics import wilson
from tests.helpers.sample_records import tiny_evaluation

BOTH = Policy(min_clean=0.75, min_robust=0.4)


def check(status):
    return Check("zero_gradients", status, 0.5, 0.05, "half have none")


FINE = (check("pass"),)


def sample(clean=900, robust=500, checks=FINE, attacks=None):
    one = tiny_evaluation()
    changes = {"clean": Accuracy.of(clean, 1000), "robust": Accuracy.of(robust, 1000), "checks": list(checks)}
    attacks = [Attack("pgd", {}, clean, clean - robust, robust / 1000, 1.0, 10, 10)] if attacks is None else attacks
    return dataclasses.replace(one, **changes, attacks=attacks)


@pytest.mark.parametrize(
    ("evaluation", "policy", "status", "reason"),
    [
        (sample(), BOTH, "PASS", "robust accuracy 50.0% [46.9%, 53.1%] lies at or above the threshold 40.0%"),
        (sample(), Policy(), "NOT JUDGED", "no thresholds"),
        (sample(robust=300), BOTH, "FAIL", "robust accuracy 30.0% [27.2%, 32.9%] lies below"),
        (sample(clean=600), BOTH, "FAIL", "clean accuracy 60.0%"),
        (sample(robust=410), BOTH, "INCONCLUSIVE", "lies around the threshold 40.0%"),
        (sample(robust=390), BOTH, "INCONCLUSIVE", "around"),
        (sample(robust=300, clean=760), BOTH, "FAIL", "around"),
        (sample(checks=[check("fail")]), BOTH, "INCONCLUSIVE", "check zero_gradients failed: half have none"),
        (sample(robust=300, checks=[check("fail")]), BOTH, "FAIL", "zero_gradients failed"),
        (sample(checks=[check("warn")]), BOTH, "WARN", "check zero_gradients warns: half have none"),
        (sample(checks=[check("warn"), check("fail")]), BOTH, "INCONCLUSIVE", "warns"),
        (sample(checks=[check("not_run"), check("pass")]), BOTH, "PASS", "at or above"),
        (sample(checks=[]), BOTH, "WARN", "no self-check was run"),
        (sample(checks=[check("not_run")]), BOTH, "WARN", "no self-check was run"),
        (sample(robust=300, checks=[]), BOTH, "FAIL", "no self-check was run"),
        (sample(checks=[check("fail")]), Policy(), "NOT JUDGED", "no thresholds"),
        (sample(clean=600), Policy(min_robust=0.4), "PASS", "robust"),
        (sample(robust=0), Policy(min_robust=0.0), "PASS", "robust"),
        (
            sample(attacks=[Attack("pgd", {}, 900, 0, 0.9, 0, 0, 0, error="RuntimeError: no")]),
            BOTH,
            "INCONCLUSIVE",
            "attack pgd failed: RuntimeError: no",
        ),
    ],
)
def test_verdicts(evaluation, policy, status, reason):
    verdict = judge(evaluation, policy)
    assert verdict.status == status
    assert any(reason in line for line in verdict.reasons), verdict.reasons


def test_the_edge_of_an_interval_passes():
    low, high = Accuracy.of(500, 1000).ci95
    assert judge(sample(), Policy(min_robust=low)).status == "PASS"
    assert judge(sample(), Policy(min_robust=low + 1e-9)).status == "INCONCLUSIVE"
    assert judge(sample(), Policy(min_robust=high)).status == "INCONCLUSIVE"
    assert judge(sample(), Policy(min_robust=high + 1e-9)).status == "FAIL"


@pytest.mark.parametrize("value", [-0.1, 1.1, 40, float("nan")])
def test_a_threshold_is_a_share(value):
    with pytest.raises(InputError, match="is not a share"):
        Policy(min_robust=value)


FILE = """
name = "road signs, release 3"
min-clean = 0.75
min_robust = 0.4
max_ece = 0.05
min_n = 500
norm = "linf"
eps = "0.1"
required_attacks = ["apgd_ce(steps=100)"]
"""


def reliability(ece):
    spread = records.Spread(0)
    return Reliability(1000, 0.9, 0.9 - ece, ece, [], spread, spread)


def measured(**changes):
    """Return an evaluation with calibration, corruptions and two classes, which is everything that a policy can require."""
    kinds = [(0, 0, 0)] * 250 + [(0, 0, 1)] * 150 + [(0, 1, 1)] * 100 + [(1, 1, 1)] * 450 + [(1, 1, 0)] * 50
    one = dataclasses.replace(
        sample(clean=900, robust=700),
        samples=[records.Sample(i, *kind, None, None) for i, kind in enumerate(kinds)],
        calibration=Calibration(reliability(0.03), reliability(0.3)),
        corruptions=Corruptions("all", "made here", 1000, Accuracy.of(900, 1000), [], mean=0.7),
        attacks=[Attack("apgd_ce", {"steps": 100, "restarts": 1}, 900, 200, 0.7, 0, 0, 0)],
    )
    one.model.classes = ["cat", "dog"]
    return dataclasses.replace(one, **changes)


@pytest.mark.parametrize(
    ("policy", "status", "reason"),
    [
        (Policy(max_drop=0.23), "PASS", "drop from clean to robust accuracy 20.0% [17.6%, 22.6%] lies at or below"),
        (Policy(max_drop=0.2), "INCONCLUSIVE", "lies around the threshold 20.0%"),
        (Policy(max_drop=0.1), "FAIL", "lies above the threshold 10.0%"),
        (Policy(min_class_robust=0.4), "PASS", "worst class, cat, 50.0% [45.0%, 55.0%] lies at or above"),
        (Policy(min_class_robust=0.4), "PASS", "hold for all 2 classes together (Bonferroni)"),
        (Policy(min_class_robust=0.5), "INCONCLUSIVE", "cat"),
        (Policy(min_class_robust=0.8), "FAIL", "cat"),
        (Policy(max_ece=0.03), "PASS", "ECE) 3.0% lies at or below the threshold 3.0%, compared without an interval"),
        (Policy(max_ece=0.02), "FAIL", "above the threshold 2.0%"),
        (Policy(max_adversarial_ece=0.3), "PASS", "adversarial calibration error"),
        (Policy(max_adversarial_ece=0.1), "FAIL", "adversarial calibration error"),
        (Policy(min_corruption=0.7), "PASS", "common corruptions 70.0% lies at or above"),
        (Policy(min_corruption=0.71), "FAIL", "below the threshold 71.0%"),
        (Policy(min_clean=0.8, min_n=1000), "PASS", "clean"),
        (Policy(min_clean=0.8, min_n=1001), "INCONCLUSIVE", "n = 1,000 samples, fewer than 1,001"),
        (Policy(min_robust=0.5, norm="linf", eps=0.1), "PASS", "robust"),
        (Policy(min_robust=0.5, norm="linf", eps="8/255"), "INCONCLUSIVE", "under linf 8/255 was not measured"),
        (Policy(min_robust=0.9, norm="l2", eps=0.1), "INCONCLUSIVE", "attacked under linf 0.1, while the policy"),
        (Policy(min_clean=0.95, norm="l2", eps=0.1), "FAIL", "clean accuracy"),
        (Policy(min_robust=0.5, required_attacks=("apgd_ce(steps=100)",)), "PASS", "robust"),
        (Policy(min_robust=0.5, required_attacks=("apgd_ce(steps=50)",)), "INCONCLUSIVE", "did not run to the end"),
        (Policy(min_robust=0.5, required_attacks=("standard",)), "INCONCLUSIVE", "apgd_t, fab_t, square did not run"),
    ],
)
def test_each_criterion(policy, status, reason):
    verdict = judge(measured(), policy)
    assert verdict.status == status
    assert any(reason in line for line in verdict.reasons), verdict.reasons
    assert [one.name for one in verdict.criteria if one.name in policy.thresholds] == list(policy.thresholds)


SHA = "0123456789abcdef" * 4
LIMITS = {"mask": SHA[:8], "eight_bit": True, "detector": "lab:score"}  # as policies state them


def limited(*names):
    """Return an evaluation whose attacker is limited in this way."""
    one = measured()
    if "mask" in names:
        one.threat.mask = records.Mask("corner.png", SHA, 25, 64)
    one.threat.eight_bit = "eight_bit" in names
    if "detector" in names:
        one.rejection = records.Rejection("lab:score", 0.05, 1.0, 100, 5, Accuracy.of(900, 1000), 2, 1, 0)
    return one


EVERY = [names for count in range(4) for names in itertools.combinations(LIMITS, count)]


@pytest.mark.parametrize("threat", [{}, {"norm": "linf", "eps": 0.1}])
@pytest.mark.parametrize("stated", EVERY)
def test_an_evaluation_passes_only_with_the_limits_that_the_policy_states(stated, threat):
    policy = Policy(min_robust=0.5, **{name: LIMITS[name] for name in stated}, **threat)
    for has in EVERY:
        verdict = judge(limited(*has), policy)
        assert verdict.status == ("PASS" if has == stated else "INCONCLUSIVE")
        told = " ".join(verdict.reasons)
        for name, value in LIMITS.items():
            line = f"{name} = {str(value).lower()}" if value is True else f'{name} = "{value}"'
            assert (line in told) == ((name in has) != (name in stated)), "reasons name only limits that differ"
    assert judge(limited(*stated), dataclasses.replace(policy, min_robust=0.9)).status == "FAIL"
    assert judge(limited(), Policy(min_robust=0.5, norm="l2", eps=0.1)).status == "INCONCLUSIVE"


def test_a_mask_is_stated_by_its_content():
    for stated, status in (
        (SHA, "PASS"),
        (SHA[:20], "PASS"),
        ("f" * 8, "INCONCLUSIVE"),
        (SHA[:8] + "0", "INCONCLUSIVE"),
    ):
        verdict = judge(limited("mask"), Policy(min_robust=0.5, mask=stated))
        assert verdict.status == status
        assert any(f'mask = "{SHA[:8]}"' in line for line in verdict.reasons) == (status != "PASS")
    assert judge(limited("mask"), Policy(min_robust=0.5, mask=SHA.upper())).status == "PASS"
    for wrong in ("", SHA[:7], "corner.png", SHA + "0"):
        with pytest.raises(InputError, match="is no SHA-256: give the first 8 characters or more"):
            Policy(min_robust=0.5, mask=wrong)


@pytest.mark.parametrize("name", ["max_ece", "max_adversarial_ece", "min_corruption", "min_class_robust"])
def test_what_was_not_measured_never_passes(name):
    bare = measured(calibration=None, corruptions=None, samples=[])
    for threshold in (0.0, 0.5, 1.0):
        verdict = judge(bare, Policy(**{"min_clean": 0.1, name: threshold}))
        assert verdict.status == "INCONCLUSIVE"
        assert any(line.endswith("was not measured") for line in verdict.reasons)


def test_a_class_without_samples_is_no_pass():
    one = measured()
    one.model.classes = ["cat", "dog", "fish"]
    assert judge(one, Policy(min_class_robust=0.1)).reasons == [
        "robust accuracy of 1 of 3 classes was not measured: no samples"
    ]
    assert judge(one, Policy(min_class_robust=0.8)).status == "FAIL"


def by_class(*counts):
    """Return an evaluation from (robust, total) of each class; every clean prediction is right."""
    kinds = [
        (label, held)
        for label, (robust, total) in enumerate(counts)
        for held in [True] * robust + [False] * (total - robust)
    ]
    samples = [records.Sample(i, a, a, a if held else a + 1, None, None) for i, (a, held) in enumerate(kinds)]
    one = measured(samples=samples)
    one.model.classes = [f"c{label}" for label in range(len(counts))]
    return one


def test_the_interval_beside_the_worst_class_is_its_own():
    one = by_class((600, 1000), (7, 10), (980, 1000))
    verdict = judge(one, Policy(min_class_robust=0.5))
    z = NormalDist().inv_cdf(1 - 0.05 / 6)
    (low, high), (low_of_few, high_of_few) = wilson(600, 1000, z), wilson(7, 10, z)
    assert low_of_few < 0.5 < low
    assert verdict.status == "INCONCLUSIVE"
    assert verdict.reasons[0] == (
        f"robust accuracy of the worst class, c0, 60.0% [{low:.1%}, {high:.1%}] lies at or above the threshold 50.0%; "
        f"robust accuracy of another class, c1, 70.0% [{low_of_few:.1%}, {high_of_few:.1%}] lies around the threshold "
        "50.0%; the intervals hold for all 3 classes together (Bonferroni)"
    )


def test_many_classes_do_not_fail_by_chance():
    policy, counts = Policy(min_class_robust=0.48), [(5, 20), *[(10, 20)] * 99]
    assert wilson(5, 20)[1] < 0.48, "alone, the class would fail"
    assert judge(by_class(*counts), policy).status == "INCONCLUSIVE"
    assert judge(by_class((5, 20)), policy).status == "FAIL"
    assert judge(by_class((0, 60), *counts), policy).status == "FAIL"


def test_attacks_that_share_a_plug_in_are_found_by_it():
    names = name_attacks(["pgd(steps=20)", "pgd(steps=50)", "fgsm", "fgsm"])
    assert names == ["pgd(steps=20)", "pgd(steps=50)", "fgsm #1", "fgsm #2"]
    options = [{"steps": 20}, {"steps": 50}, {}, {}]
    one = measured(attacks=[Attack(*both, 9, 0, 0.7, 0, 0, 0) for both in zip(names, options, strict=True)])
    assert lacking_attacks(one, ("pgd(steps=50)", "fgsm", "pgd(steps=20)")) == []
    assert lacking_attacks(one, ("pgd(steps=30)", "apgd_ce")) == ["pgd(steps=30)", "apgd_ce"]


def test_a_suite_asks_for_its_attacks_with_their_defaults():
    names = ("apgd_ce", "apgd_t", "fab_t", "square")
    attacks = [Attack(name, {"restarts": 1}, 9, 0, 0.7, 0, 0, 0) for name in names]
    one = measured(attacks=attacks)
    assert lacking_attacks(one, ("standard",)) == []
    attacks[1].options["targets"] = 3
    attacks[3].error = "RuntimeError: no"
    assert lacking_attacks(one, ("standard", "fab_t")) == ["apgd_t", "square"]


def test_a_file_is_read_and_a_flag_wins(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(FILE)
    found = Policy.load(path, min_clean=None, min_robust=0.5)
    assert found == Policy(
        0.75, 0.5, max_ece=0.05, min_n=500, norm="linf", eps="0.1", required_attacks=("apgd_ce(steps=100)",),
        name="road signs, release 3",
    )  # fmt: skip
    assert found.thresholds == {"min_clean": 0.75, "min_robust": 0.5, "max_ece": 0.05}
    assert judge(measured(), found).status == "PASS"
    assert Policy.load(None, min_clean=0.3) == Policy(min_clean=0.3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("min_robus = 0.4", "did you mean 'min_robust'?"),
        ("min_robust = 40", "min_robust 40.0 is not a share: give a number from 0 to 1"),
        ('min_robust = "high"', "option min_robust: 'high' is not a number"),
        ("min_robust = true", "is not a number"),
        ("max_ece = nan", "is not"),
        ("min_n = 0.5", "option min_n: 0.5 is not a whole number"),
        ("min_n = 0", "give 1 or more"),
        ('norm = "linf"', "by norm and eps together"),
        ('norm = "l3"\neps = 1', "unknown norm 'l3'"),
        ('norm = "l2"\neps = "far"', "is not a radius"),
        ('required_attacks = ["pgd(steps=3"]', "is not a spec"),
        ("required_attacks = 3", "is not a list"),
        ("min_robust == 0.4", "is not TOML"),
        ("[min_robust]", "is not a number"),
    ],
)
def test_wrong_files_are_refused_in_one_line_that_names_them(text, words, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        Policy.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_flag(tmp_path):
    with pytest.raises(InputError, match="give a TOML file with `policy`"):
        Policy.load(tmp_path / "none.toml")


def test_nothing_that_was_not_attacked_is_robust():
    found = judge(sample(attacks=[]), Policy(min_robust=0.2))
    assert (found.status, "was not measured" in found.reasons[0]) == ("INCONCLUSIVE", True)


@pytest.mark.parametrize("spec", ["nope", "pgd(stpes=5)", "fgsn"])
def test_a_required_attack_must_exist(spec):
    with pytest.raises(InputError, match="required attack"):
        Policy(min_robust=0.2, required_attacks=(spec,))
    Policy(min_robust=0.2, required_attacks=("fast", "fast(version=1)", "pgd(steps=5)", "mylab.attacks:foo(k=1)"))
    with pytest.raises(InputError, match=r"fast\(version=3\) is not known: give 1 or 2"):
        Policy(min_robust=0.2, required_attacks=("fast(version=3)",))
