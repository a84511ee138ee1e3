"""Trains the recipe of base.toml with one change each, and attacks the models; finished rows are not repeated.

python -m experiments.fifteen_minutes.run --data folder:cifar                       # all changes, three seeds
python -m experiments.fifteen_minutes.run --data folder:cifar --rows base lr_0.2 --seeds 0
python -m experiments.fifteen_minutes.run --data folder:cifar --epochs 8 --seeds 0 --out short.json      # shorter, to screen
python -m experiments.fifteen_minutes.run --tiny --rows base silu --seeds 0 --out tiny.json            # seconds, on the digits

The last epoch is evaluated, with `fast` on all test images. --costs measures images per second on an otherwise idle machine
(medians of dry runs, in turns). A change that alters the cost of an image has the number of epochs that take the time of the
base recipe. Runs are kept in --work; an interrupted run is resumed. The results are written to --out, one row per run.
"""

from experiments.changes import Change, Study

SILU = "vgg16(width=0.25, activation='silu')"
RESNET7 = "resnet7(activation='silu')"
TUNED = {"arch": RESNET7, "optimizer": "muon", "train_eps": "12/255"}
WIDE = TUNED | {"arch": "resnet7(width=1.75, activation='silu')"}
SMALL = TUNED | {"arch": "resnet7(width=0.7, activation='silu')"}  # the operations of vgg16(width=0.25)
REST = {"augment": "crop_flip(pad=1)", "lr": 0.2, "objective": "adversarial(label_smoothing=0.3)"}
REST_WORDS = "shifts of 1 pixel, label smoothing 0.3, learning rate 0.2"
CHANGES = {
    "base": Change("`base.toml`"),
    "no_ramp": Change("full radius from the start", {"eps_ramp": None}),
    "long_ramp": Change("radius growing over 0.3-0.6 of the run", {"eps_ramp": "0.3-0.6"}),
    "silu": Change("SiLU", {"arch": SILU}, epochs=36),
    "muon": Change("Muon", {"optimizer": "muon"}, epochs=35),
    "muon_silu": Change("Muon and SiLU", {"optimizer": "muon", "arch": SILU}, epochs=32),
    "lr_0.2": Change("learning rate 0.2", {"lr": 0.2}),
    "lr_0.05": Change("learning rate 0.05", {"lr": 0.05}),
    "smoothing_0.1": Change("label smoothing 0.1", {"objective": "adversarial(label_smoothing=0.1)"}),
    "smoothing_0.3": Change("label smoothing 0.3", {"objective": "adversarial(label_smoothing=0.3)"}),
    "crop_1": Change("shifts of 1 pixel at most", {"augment": "crop_flip(pad=1)"}),
    "crop_2": Change("shifts of 2 pixels at most", {"augment": "crop_flip(pad=2)"}),
    "ema": Change("average of the weights (EMA 0.995)", {"ema": 0.995}),
    "eps_9": Change("training radius 9/255", {"train_eps": "9/255"}),
    "eps_12": Change("training radius 12/255", {"train_eps": "12/255"}),
    "fgsm": Change("FGSM without noise", {"adv": "fgsm", "on_collapse": "ignore"}),
    "fgsm_16": Change(
        "FGSM without noise, trained at 16/255", {"adv": "fgsm", "train_eps": "16/255", "on_collapse": "ignore"}
    ),
    "resnet7": Change("ResNet7 and SiLU", {"arch": RESNET7}, epochs=24),
    "tuned": Change("ResNet7, SiLU and Muon", {"arch": RESNET7, "optimizer": "muon"}, epochs=23),
    "tuned_eps_12": Change("ResNet7, SiLU, Muon, trained at 12/255", TUNED, epochs=23),
    "tuned_eps_15": Change("ResNet7, SiLU, Muon, trained at 15/255", TUNED | {"train_eps": "15/255"}, epochs=23),
    "wide_tuned": Change("wide ResNet7 (1.75), SiLU, Muon, trained at 12/255", WIDE, epochs=8),
    "wide_tuned_crop_1": Change(
        "wide ResNet7, SiLU, Muon, trained at 12/255, shifts of 1 pixel",
        WIDE | {"augment": "crop_flip(pad=1)"},
        epochs=8,
    ),
    "best": Change("wide ResNet7, SiLU, Muon, trained at 12/255, " + REST_WORDS, WIDE | REST, epochs=8),
    "best_vgg16": Change(
        "VGG16, SiLU, Muon, trained at 12/255, " + REST_WORDS, TUNED | REST | {"arch": SILU}, epochs=32
    ),
    "best_small": Change("small ResNet7 (0.7), SiLU, Muon, trained at 12/255, " + REST_WORDS, SMALL | REST, epochs=30),
    "best_small_crop_2": Change(
        "small ResNet7, SiLU, Muon, trained at 12/255, shifts of 2 pixels, label smoothing 0.3, learning rate 0.2",
        SMALL | REST | {"augment": "crop_flip(pad=2)"},
        epochs=30,
    ),
}
STUDY = Study("fifteen_minutes", CHANGES)

if __name__ == "__main__":
    STUDY.run()
