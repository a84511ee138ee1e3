"""An artefact as a service knows it: by its files, without running it."""

from dataclasses import dataclass, field
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.files import sha256
from robustcls.results.artefact import DRIFT, EVALUATION, MANIFEST, Manifest
from robustcls.results.records import Evaluation
from robustcls.runtime.session import check_file
from robustcls.serving.drift import Drift

NAMED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"  # what needs no escape in an address


@dataclass
class ServedModel:
    """One version of a model."""

    name: str
    folder: Path
    manifest: Manifest
    digest: str = ""  # SHA-256 of the manifest's file
    evaluation: Evaluation | None = None  # of this very file
    drift: Drift | None = None
    notes: list[str] = field(default_factory=list)  # what whoever starts the service must know

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
        """That of `DIR` or `NAME=DIR`. Raises InputError where it is no artefact, or not a whole one."""
        name, equals, folder = spec.rpartition("=")
        if not equals or Path(spec).is_dir():
            name, folder = "", spec
        path = Path(folder)
        manifest = Manifest.of(path)
        check_file(path, manifest)
        model = cls(_checked(name) if name else _made_of(path), path, manifest, sha256(path / MANIFEST))
        model._read_evaluation()
        if (path / DRIFT).is_file():
            model.drift = Drift.of(path / DRIFT, len(manifest.classes))
        else:
            model.notes.append(f"{path} has no {DRIFT}: drift is not watched")
        return model

    def _read_evaluation(self) -> None:
        path = self.folder / EVALUATION
        if not path.is_file():
            self.notes.append(
                f"{self.folder} was never attacked: robustcls attack --model {self.folder} --out {path} says what it withstands"
            )
            return
        try:
            found = Evaluation.load(path)
        except InputError as error:
            self.notes.append(f"what {self.folder} withstands is not shown: {error}")
            return
        if found.model.sha256 != self.manifest.file.sha256:
            self.notes.append(f"{path} is of another file: attack this one again")
            return
        self.evaluation = found


def _checked(name: str) -> str:
    if name.strip(NAMED):
        raise InputError(f"{name!r} cannot be in an address: name the model by letters, digits, '.', '_' and '-'")
    return name


def _made_of(folder: Path) -> str:
    return "".join(letter if letter in NAMED else "_" for letter in folder.resolve().name) or "model"
