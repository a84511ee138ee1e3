"""`robustcls doctor`: the optional extras, and what each is for."""

import tomllib
from importlib import metadata

from robustcls.cli import doctor
from tests.helpers import ROOT


def test_doctor_lists_every_extra_with_what_it_is_for(cli, monkeypatch):
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(wanted) <= set(doctor.EXTRAS)
    needs = [f'{need} ; extra == "{extra}"' for extra, some in wanted.items() for need in some]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: needs)
    monkeypatch.setattr(doctor.metadata, "metadata", lambda name: FakeMetadata(wanted))
    versions = {"timm": "0.9", "safetensors": "0.5", "wandb": "0.31.1"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor.metadata, "version", version)
    lines = doctor.extras()
    text = " ".join(" ".join(lines).split())
    assert "safetensors installed weights as .safetensors: safetensors 0.5" in text
    assert "timm missing: pip install 'robustcls[timm]' models by --model timm/NAME: timm 0.9, needs >=1.0" in text
    onnx = "models as .onnx, and robustcls export: onnx missing, onnxruntime missing"
    assert f"onnx missing: pip install 'robustcls[onnx]' {onnx}" in text
    assert [extra for extra in wanted if not any(line.startswith(f"  {extra} ") for line in lines)] == []


class FakeMetadata:
    def __init__(self, extras):
        self.extras = list(extras)

    def get_all(self, key):
        assert key == "Provides-Extra"
        return self.extras


def test_doctor_says_where_the_package_is_not_installed(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "metadata", missing)
    assert "not installed" in doctor.extras()[0]
