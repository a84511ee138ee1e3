"""An artefact to be served, read from its files without running it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.files import sha256
from robustcls.results.artefact import DRIFT, EVALUATION, MANIFEST, Manifest
from robustcls.results.records import Evaluation
from robustcls.runtime.session import check_file
from robustcls.serving.drift import Drift

NAMED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"  # characters that need no escape in a URL


@dataclass
class ServedModel:
    """One version of a model."""

    name: str
    folder: Path
    manifest: Manifest
    digest: str = ""  # SHA-256 of manifest.json
    evaluation: Evaluation | None = None  # of the served file, by its SHA-256
    drift: Drift | None = None
    notes: list[str] = field(default_factory=list)  # shown at the start of the service

    @property
    def version(self) -> str:
        """The first 12 hexadecimal digits of the file's SHA-256."""
        return self.manifest.file.sha256[:12]

    @property
    def classes(self) -> list[str]:
        return self.manifest.classes

    @property
    def quantization(self) -> str:
        return self.manifest.quantization.spec if self.manifest.quantization else ""

    @classmethod
    def of(cls, spec: str) -> "ServedModel":
        """Read the artefact of `DIR` or `NAME=DIR`. Raises InputError if it is not a complete artefact."""
        name, path = _parts(spec)
        manifest = Manifest.of(path)
        check_file(path, manifest)
        model = cls(_in_addresses(name), path, manifest, sha256(path / MANIFEST))
        model._read_evaluation()
        if not manifest.decoding.formats:
            model.notes.append(f"{path} names no image formats: the service accepts pixels only, no encoded images")
        if (path / DRIFT).is_file():
            model.drift = Drift.of(path / DRIFT, len(manifest.classes))
        else:
            model.notes.append(f"{path} has no {DRIFT}: drift is not monitored")
        return model

    def _read_evaluation(self) -> None:
        path = self.folder / EVALUATION
        if not path.is_file():
            self.notes.append(
                f"{self.folder} has no evaluation: robustcls attack --model {self.folder} --out {path} measures its robustness"
            )
            return
        try:
            found = Evaluation.load(path)
        except InputError as error:
            self.notes.append(f"the robust accuracy of {self.folder} is not shown: {error}: attack it again")
            return
        if not found.model.sha256:
            self.notes.append(f"{path} does not say which file it evaluated: attack this file again")
            return
        if found.model.sha256 != self.manifest.file.sha256:
            self.notes.append(f"{path} is the evaluation of another file: attack this file again")
            return
        self.evaluation = found


def check_names(specs: Sequence[str]) -> None:
    """Raise InputError if two different names of models, given as `DIR` or `NAME=DIR`, have the same name in URLs."""
    names: dict[str, str] = {}
    for name, _ in map(_parts, specs):
        first = names.setdefault(_in_addresses(name), name)
        if first != name:
            raise InputError(f"{first!r} and {name!r} would have the same URL: give one of them another name, NAME=DIR")


def _parts(spec: str) -> tuple[str, Path]:
    """The name and the folder of `DIR` or `NAME=DIR`; for `DIR`, the folder's own name. Both may contain further '='."""
    name, equals, folder = spec.partition("=")
    if not equals or Path(spec).is_dir():
        return Path(spec).resolve().name or "model", Path(spec)
    if not (name and folder):
        raise InputError(f"`model={spec}` lacks {'a folder' if name else 'a name'}: give DIR or NAME=DIR")
    if name.strip(NAMED) or not name.strip("."):
        raise InputError(
            f"{spec} is not a folder, and {name!r} cannot be part of a URL: use letters, digits, '.', '_' and '-' in the name"
        )
    return name, Path(folder)


def _in_addresses(name: str) -> str:
    return "".join(letter if letter in NAMED else "_" for letter in name)
