"""Trains Fashion-MNIST with the recipe tuned on CIFAR-10 and other ones, and attacks the models.

python -m experiments.fashion_mnist.run                                             # all rows, three seeds
python -m experiments.fashion_mnist.run --rows base tuned --seeds 0
python -m experiments.fashion_mnist.run --tiny --rows base tuned --seeds 0 --out tiny.json            # seconds, on the digits

The last epoch is evaluated, with `fast` on all test images. Each row has about as many epochs as one core trains in the 17
minutes that base.toml takes for one. Runs are kept in --work; an interrupted run is resumed. The results are written to --out,
one row per run.
"""

from experiments.changes import Change, Study
from experiments.fifteen_minutes.run import CHANGES as CIFAR10

N_FGSM = {"adv": "n_fgsm", "eps_ramp": "0.15-0.3"}
SMALL = {"arch": "vgg16(width=0.25)"} | N_FGSM
TUNED = (
    CIFAR10["best"].options | N_FGSM | {"train_eps": "0.15"}
)  # as on CIFAR-10, 1.5 times the radius of the threat model
CHANGES = {
    "base": Change("`base.toml`"),
    "small": Change("VGG16 at a quarter of the width, N-FGSM", SMALL, epochs=30),
    "tuned": Change("the tuned recipe of CIFAR-10", TUNED, epochs=6),
    "tuned_eps_0.1": Change("the tuned recipe, trained at 0.1", TUNED | {"train_eps": "0.1"}, epochs=6),
}
STUDY = Study("fashion_mnist", CHANGES)

if __name__ == "__main__":
    STUDY.run()
