"""Trains Fashion-MNIST with the recipe tuned on CIFAR-10 and other ones, and attacks the models.

python -m experiments.fashion_mnist.run                                             # all rows, three seeds
python -m experiments.fashion_mnist.run --rows base tuned --seeds 0
python -m experiments.fashion_mnist.run --tiny --rows base tuned --seeds 0 --out tiny.json            # seconds, on the digits

The last epoch is evaluated, with `fast` on all test images. Each row has about as many epochs as one core trains in the 17
minutes that base.toml takes for one. Runs are kept in --work; an interrupted run is resumed. The results are written to --out,
one row per run.
"""

from experiments.changes import Change, Study

SMALL = {"arch": "vgg16(width=0.25)", "adv": "n_fgsm", "eps_ramp": "0.15-0.3"}
TUNED = {
    "arch": "resnet7(width=1.75, activation='silu')",
    "objective": "adversarial(label_smoothing=0.3)",
    "adv": "n_fgsm",
    "train_eps": "0.15",
    "eps_ramp": "0.15-0.3",
    "optimizer": "muon",
    "lr": 0.2,
    "augment": "crop_flip(pad=1)",
}
SAME_RADIUS = {key: value for key, value in TUNED.items() if key != "train_eps"}
CHANGES = {
    "base": Change("`base.toml`"),
    "small": Change("VGG16 at a quarter of the width, N-FGSM", SMALL, epochs=30),
    "tuned": Change("the tuned recipe of CIFAR-10", TUNED, epochs=6),
    "tuned_eps_0.1": Change("the tuned recipe, trained at 0.1", SAME_RADIUS, epochs=6),
}
STUDY = Study("fashion_mnist", CHANGES)

if __name__ == "__main__":
    STUDY.run()
