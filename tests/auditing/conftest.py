"""Digits with planted label errors, and their audit."""

from dataclasses import replace

import pytest
import torch

from robustcls.auditing.audit import audit_data
from robustcls.auditing.config import AuditConfig
from robustcls.data.splits import load_all

SHARE = 0.08


@pytest.fixture(scope="session")
def digits():
    return load_all("digits(size=8)")


@pytest.fixture(scope="session")
def planted(digits):
    """Return the digits with wrong labels on a share of them, and a mask of the wrong ones."""
    draws = torch.Generator().manual_seed(0)
    wrong = torch.rand(len(digits), generator=draws) < SHARE
    other = (digits.labels + torch.randint(1, 10, (len(digits),), generator=draws)) % 10
    return replace(digits, labels=torch.where(wrong, other, digits.labels)), wrong


@pytest.fixture(scope="session")
def config():
    return AuditConfig(
        data="digits(size=8)", arch="tests.helpers.tiny_run:small_cnn", folds=2, epochs=8, attack="pgd(steps=3)", attack_n=40,
        minimum="fmn(steps=10)", minimum_n=30, suggest=100, device="cpu", precision="fp32", quiet=True,
    )  # fmt: skip


@pytest.fixture(scope="session")
def audited(planted, config):
    return audit_data(config, planted[0])
