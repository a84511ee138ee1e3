"""Trains the recipe of base.toml with one change each, and attacks the models; finished rows are not repeated.

python -m experiments.card_proxy.run --data folder:cifar                       # all changes, three seeds
python -m experiments.card_proxy.run --data folder:cifar --rows base ema --seeds 0
python -m experiments.card_proxy.run --tiny --rows base ema --seeds 0 --out tiny.json            # seconds, on the digits

The epoch with the best validation accuracy is evaluated, with `fast` on all test images. Runs are kept in --work; an
interrupted run is resumed. The results are written to --out, one row per run. All rows have the same number of epochs, not the
same time.
"""

from experiments.changes import Change, Study

EMA = {"ema": 0.998}
AWP = {"step": "awp(gamma=0.005)"}
TRADES = {"objective": "trades(beta=6)", "adv": "pgd(steps=2, step_size=5/255)"}
SMOOTHING = {"objective": "adversarial(label_smoothing=0.4)"}
IDBH = {"augment": "idbh_weak"}
CHANGES = {
    "base": Change("`base.toml`"),
    "ema": Change("average of the weights (EMA 0.998)", EMA),
    "smoothing": Change("label smoothing 0.4", SMOOTHING),
    "smoothing_ema": Change("label smoothing 0.4, EMA", SMOOTHING | EMA),
    "idbh": Change("IDBH-weak", IDBH),
    "idbh_ema": Change("IDBH-weak, EMA", IDBH | EMA),
    "sparse": Change("one weight in ten (`sparse`)", {"step": "sparse(density=0.1, every=100)"}),
    "awp_ema": Change("AWP, EMA", AWP | EMA),
    "pgd_2_ema": Change("PGD-2, EMA", EMA | {"adv": "pgd(steps=2, step_size=5/255)"}),
    "trades_ema": Change("TRADES with two steps, EMA", TRADES | EMA),
    "trades_awp_ema": Change("TRADES with two steps, AWP, EMA", TRADES | AWP | EMA),
    "idbh_awp_ema": Change("AWP, IDBH-weak, EMA", IDBH | AWP | EMA),
    "all": Change("AWP, label smoothing 0.4, IDBH-weak, EMA", SMOOTHING | AWP | EMA | IDBH),
}
STUDY = Study("card_proxy", CHANGES, weights="ckpt.pt", overfitting=True)

if __name__ == "__main__":
    STUDY.run()
