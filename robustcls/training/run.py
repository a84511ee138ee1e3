"""A training run: a configuration, images and a folder around a TrainState. `training.loop.fit` drives it."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.options import parse_batch_size
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.core.traits import traits_of
from robustcls.data.augment import augmenter, leaves_box, mixes_labels
from robustcls.data.images import Images, batches, num_batches
from robustcls.data.mixed import Mixed
from robustcls.data.splits import choose
from robustcls.models.checkpoint import Arch
from robustcls.models.transfer import tuned
from robustcls.results.records import Chance
from robustcls.runtime.device import make_deterministic, resolve_batch_size, resolve_device, resolve_precision
from robustcls.runtime.world import World
from robustcls.training.config import TrainConfig
from robustcls.training.model import make_model
from robustcls.training.state import TrainState, own_random, seed_global
from robustcls.training.tracking import Tracking
from robustcls.training.validation import Diverged, load_val_attack, validate


class Run:
    """The fixed parts of a training run: options, images, validation attack, folder and trackers.

    Everything that changes from batch to batch is in `state`.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        train: Images,
        val: Images,
        world: World | None = None,
        *,
        arch: Arch | None = None,
        adv: plugins.AnyPlugin | None = None,
        last: Mapping[str, Any] | None = None,
        from_python: tuple[str, ...] = (),
        unlabelled: Images | None = None,
    ) -> None:
        """Build the model and load the attacks. Raises InputError; writes nothing.

        Args:
            arch, last: passed to `make_model`.
            adv: the inner attack, in place of config.adv.
            from_python: names of the options that were given as Python objects.
            unlabelled: images to train on in addition to `train`; their labels are UNLABELLED or pseudo-labels.
        """
        self.config, self.folder, self.world = config, folder, world or World()
        if config.deterministic:
            make_deterministic()
        self.device = resolve_device(config.device)
        if config.cuda_graphs and self.device.type != "cuda":
            raise InputError("`cuda_graphs` needs a CUDA device: leave it out")
        self.precision = resolve_precision(config.precision, self.device)
        self.threat = ThreatModel(config.norm, parse_eps(config.eps))  # type: ignore[arg-type]
        self.train, self.val = train.to(self.device), val.to(self.device)
        size = tuple(train.pixels.shape[1:])
        self.threat.check_fits(size)
        inner = self.threat  # of the inner attack; self.threat is that of validation and of the checkpoint
        if config.train_eps is not None:
            try:
                inner = ThreatModel(config.norm, parse_eps(config.train_eps))  # type: ignore[arg-type]
                inner.check_fits(size)
            except InputError as error:
                raise InputError(f"`train_eps`: {error}") from None
            if inner.eps == 0:
                raise InputError('`train_eps=0` is training without an attack: give `adv="none"`')
        if config.eps_ramp and inner.eps == 0:
            raise InputError("`eps_ramp` has no radius to grow to with `eps=0`: leave it out, or give a larger `eps`")
        self.mixed = None if unlabelled is None else self._mixed(unlabelled.to(self.device))
        self.batch_size = resolve_batch_size(parse_batch_size(config.batch_size), size, self.device)
        self._check_batch_size()
        if leaves_box(config.augment) and (adv or config.adv) not in (None, "none"):
            raise InputError(
                f"`augment={config.augment}` gives pixels outside [0, 1], and the inner attack clamps its images to [0, 1], "
                "which would cut off the noise: give `adv=none`, or replace the augmentation with "
                '`objective="smooth_adv(sigma=0.25)"`'
            )
        self.augment = augmenter(config.augment, flip=train.flip, num_classes=len(train.classes))
        with own_random(self.device):
            seed_global(config.seed, self.device)
            model, self.notes = make_model(config, train, arch, last=last)
        self.state = TrainState(
            config,
            model.to(self.device).to(memory_format=torch.channels_last),
            inner,
            num_batches=self.mixed.num_batches(self.batch_size)
            if self.mixed
            else num_batches(train, self.batch_size, drop_last=True),
            precision=self.precision,
            world=self.world,
            adv=adv,
        )
        if config.tune != "all":
            self.notes["tuned"] = tuned(model, config.tune)
        self.val_attack = load_val_attack(config, self.threat)
        self.resumed, self.from_python = last is not None, from_python
        self.remark = ""  # how the data set's recipe was adapted
        self.assumed = ""  # message on the threat model and augmentation that neither the user nor a recipe names
        self.tracking: Tracking | None = None
        self.track_from_here()

    def track_from_here(self) -> None:
        """Open new trackers, which log from the current batch on. They write nothing before the end of the first epoch."""
        self.close()
        specs = self.config.track if self.world.first else ()
        every = self.config.track_images or self.config.epochs + 1
        self.tracking = Tracking(specs, self.folder, vars(self.config), start=self.images_seen, every=every)

    def close(self) -> None:
        """Close the trackers, so that they write what they have buffered."""
        if self.tracking:
            self.tracking.close()

    def batches(self, *, stream: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the remaining batches of this epoch: augmented float32 images in [0, 1], and labels.

        stream: number of a separate random stream, for batches that are not trained on. These start at the beginning of the
            epoch and have their own order and augmentation.
        """
        state = self.state
        seed = self.config.seed if stream is None else mix(self.config.seed, stream)
        start = state.batch if stream is None else 0
        where: dict[str, Any] = {"epoch": state.epoch, "start": start, "rank": self.world.rank, "size": self.world.size}
        if self.mixed:
            remaining = self.mixed.batches(self.batch_size, seed=seed, **where)
        else:
            remaining = batches(self.train, self.batch_size, seed=seed, drop_last=True, channels_last=True, **where)
        for number, (x, y) in enumerate(remaining, start):
            state.seed(seed, state.epoch, number)
            yield self.augment(x, y, state.generator)

    def validate(self, count: int) -> dict[str, Any]:
        """Return the fields of an Epoch that validation measures, on `count` images."""
        return validate(self, count)

    def check_finite(self) -> None:
        """Raise Diverged if the loss of a batch of this epoch was not finite."""
        state, kept = self.state, self.folder / "last.pt"
        bad = int(state.meter.first_bad)
        if bad >= 0:
            raise Diverged(
                f"the loss was not a finite number in batch {bad + 1} of {state.num_batches} of epoch {state.epoch + 1}: "
                "lower `lr` or give `clip=1`"
                + (f"; {helps}" if (helps := traits_of(self.state.objective).diverges) else "")
                + (f", or check what the inner attack {self.config.adv} returns" if ":" in str(self.config.adv) else "")
                + (f"; {kept} holds the last good state" if kept.exists() else "")
            )

    @property
    def images_per_batch(self) -> int:
        return min(self.batch_size, len(self.mixed or self.train))

    @property
    def images_read(self) -> list[Images]:
        """Training images, validation images, and unlabelled images if there are any."""
        return [self.train, self.val, *([self.mixed.unlabelled] if self.mixed else [])]

    @property
    def images_seen(self) -> int:
        return (self.state.epoch * self.state.num_batches + self.state.batch) * self.images_per_batch

    @property
    def selects_robust(self) -> bool:
        """Whether the best epoch is chosen by robust validation accuracy; otherwise by clean validation accuracy."""
        return self.config.is_adversarial and self.val_attack is not None

    @property
    def selected_by(self) -> str:
        how = f"under {self.config.val_attack}" if self.selects_robust else "without an attack"
        return f"accuracy {how} on {min(self.config.val_n, len(self.val))} validation images"

    @cached_property
    def data_sha256(self) -> str:
        """SHA-256 of the training, validation and unlabelled images; a run can be resumed only with the same images."""
        return " ".join(images.sha256() for images in self.images_read)

    @cached_property
    def chance(self) -> Chance:
        """The accuracy on the validation images of always predicting the most frequent class."""
        labels = choose(self.val, min(self.config.val_n, len(self.val))).labels
        return Chance(len(labels), labels.bincount().max().item() / len(labels))

    def _mixed(self, unlabelled: Images) -> Mixed:
        if self.config.without_labels and mixes_labels(self.config.augment):
            raise InputError(
                f"`augment={self.config.augment}` mixes labels, and some images have none: leave out this augmentation, or "
                "give `pseudo_labels`"
            )
        parts = self.world.size * self.config.accumulate
        return Mixed(self.train, unlabelled, self.config.unlabelled_share, parts)

    def _check_batch_size(self) -> None:
        shares, least = self.world.size * self.config.accumulate, self.images_per_batch
        if least % shares:
            raise InputError(
                f"batches of {least} cannot be split into {shares} equal parts: give another `batch_size` or `accumulate`"
            )
        if least < 2 * shares:
            raise InputError(
                f"BatchNorm cannot train on batches of one image: give `batch_size` and `limit_train={2 * shares}` or more"
            )
