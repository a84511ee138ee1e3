"""Fixtures: a small model, and images of its size."""

import pytest
import torch
from torch import nn

from robustcls.core.classifier import Classifier
from robustcls.results.artefact import MANIFEST

SIZE = (3, 12, 12)
CLASSES = ("cat", "dog", "ship")


def make_model(net=None, **normalisation):
    net = net or nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    return Classifier(net, classes=CLASSES, input_size=SIZE, arch="small", **normalisation)


def normalised_model():
    model = make_model(mean=(0.5,), std=(0.25,))
    model.net[1].running_mean.uniform_(-0.3, 0.3)
    model.net[1].running_var.uniform_(0.5, 2)
    return model


@pytest.fixture
def model():
    return normalised_model()


@pytest.fixture
def images():
    return torch.rand(80, *SIZE)


def damage_schema(folder):
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("robustcls/artefact/1", "robustcls/artefact/2"))
