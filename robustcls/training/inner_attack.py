"""The inner attack: the attack that adversarial training runs on each batch."""

import inspect
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._run import fault_of, outside_of
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.gradients import kept_flags
from robustcls.core.losses import UNLABELLED, cross_entropy
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import takes, traits_of


def load_whole(spec: plugins.AnyPlugin) -> Callable[..., Tensor]:
    """Load an attack for training. An attack that takes soft labels runs all its steps unless the spec sets `early_stop`."""
    attack = plugins.load("attack", spec)
    if traits_of(attack).soft_labels and takes(attack, "early_stop"):
        return partial(attack, **{"early_stop": False} | attack.keywords)
    return attack


@torch.no_grad()
def self_labelled(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the labels N of a batch, with UNLABELLED replaced by the predicted class. Probabilities N,K are left unchanged."""
    return y if y.is_floating_point() else torch.where(y == UNLABELLED, model(x).argmax(1), y)


class InnerAttack:
    """An attack that maximises the loss of an objective, on a model in eval mode."""

    def __init__(self, attack: plugins.AnyPlugin, objective: str, threat: ThreatModel) -> None:
        """attack: a spec, or a function `(model, x, y, threat, *, generator=None) -> x_adv`. objective: named in messages.

        Raises InputError for an attack that cannot be trained against, or whose options do not fit the threat model.
        """
        spec = attack if isinstance(attack, str) else str(plugins.parse("attack", attack))
        self.spec, self.objective, self.threat = spec, objective, threat
        self.function = load_whole(attack)
        self.is_own = self.is_new = plugins.is_own("attack", attack)
        if traits_of(self.function).keeps_label:
            raise InputError(f'`adv="{spec}"` keeps the label, so there is nothing to train against: give `adv="pgd"`')
        threat.check_options(spec, plugins.resolved("attack", attack))
        self.parameters = inspect.signature(self.function).parameters

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel | None = None,
        *,
        loss: Callable[..., Tensor] = cross_entropy,
        reference: Tensor | None = None,
        generator: Generator,
        halvings: int = 0,
    ) -> Tensor:
        """Return adversarial images of x, N,C,H,W.

        Args:
            threat: a threat model of a smaller radius, in place of the attack's own; its step size shrinks in proportion.
            loss: the per-sample loss that the attack maximises. A loss with the trait `reference` compares logits with
                reference logits, by default those of the model on the clean images.
            reference: reference logits N,K, used in place of the labels.
            generator: source of the attack's randomness.
            halvings: how often to halve the attack's step size.

        Raises:
            InputError: for a loss or labels that the attack cannot take, or images of the wrong kind from the attack.
        """
        threat = threat or self.threat
        diverges = reference is not None or traits_of(loss).reference
        self._check(loss, y, diverges)
        options: dict[str, Any] = {} if loss is cross_entropy else {"loss": loss}
        if "generator" in self.parameters:
            options["generator"] = generator
        if (halvings or threat is not self.threat) and "step_size" in self.parameters:
            options["step_size"] = self.step_size * (threat.eps / self.threat.eps) / 2**halvings
        with torch.autocast(x.device.type, enabled=False):
            if diverges and reference is None:
                with torch.no_grad():
                    reference = model(x)
            target = y if reference is None else reference.detach()
            with kept_flags(model) if self.is_own else nullcontext():
                # A user's function may modify its inputs in place.
                images = x.clone() if self.is_own else x
                x_adv = self.function(model, images, target, threat, **options)
        if fault := fault_of(x_adv, x):
            raise InputError(
                f"inner attack {self.spec}: {fault}: return adversarial images, a float tensor of their shape"
            )
        if self.is_new:  # checked only once, because the check waits for the device
            self.is_new = False
            if not x_adv.isfinite().all():
                raise InputError(f"inner attack {self.spec} gave values that are not finite: return images")
            if problem := outside_of(x_adv, x, threat, traits_of(self.function)):
                warnings.warn(f"inner attack {self.spec}: {problem}, and are trained on as they are", stacklevel=2)
        return x_adv.detach()

    @property
    def step_size(self) -> float:
        """The step size in pixel values: that of the spec, or the attack's default."""
        given, steps = self.parameters["step_size"].default, self.parameters.get("steps")
        return self.threat.default_step(steps.default if steps else None) if given is None else float(given)

    def _check(self, loss: Callable[..., Tensor], y: Tensor, diverges: bool) -> None:
        if loss is not cross_entropy and "loss" not in self.parameters:
            raise InputError(f'objective {self.objective} needs an inner attack that takes its loss: give `adv="pgd"`')
        if diverges and "random_start" in self.parameters and not self.parameters["random_start"].default:
            raise InputError(
                f"{self.spec} starts at the clean image, where {self.objective} has no gradient: "
                f'give `adv="{plugins.parse("attack", self.spec).name}(random_start=True)"`'
            )
        if (diverges or y.is_floating_point()) and not traits_of(self.function).soft_labels:
            raise InputError(f'{self.spec} needs one label per image: give `adv="pgd"`, fgsm or n_fgsm')
