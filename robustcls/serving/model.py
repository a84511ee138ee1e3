"""An artefact as a service knows it: by its files, without running it."""

from collections.abc import Sequence
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
        name, path = _parts(spec)
        manifest = Manifest.of(path)
        check_file(path, manifest)
        model = cls(_in_addresses(name), path, manifest, sha256(path / MANIFEST))
        model._read_evaluation()
        if not manifest.decoding.formats:
            model.notes.append(f"{path} names no formats of images: it takes pixels alone, no encoded images")
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
            self.notes.append(f"what {self.folder} withstands is not shown: {error}: attack it again")
            return
        if not found.model.sha256:
            self.notes.append(f"{path} does not say of which file it is: attack this one again")
            return
        if found.model.sha256 != self.manifest.file.sha256:
            self.notes.append(f"{path} is of another file: attack this one again")
            return
        self.evaluation = found


def check_names(specs: Sequence[str]) -> None:
    """Raises InputError where two names of models `DIR` or `NAME=DIR` differ, and not those in their addresses."""
    names: dict[str, str] = {}
    for name, _ in map(_parts, specs):
        first = names.setdefault(_in_addresses(name), name)
        if first != name:
            raise InputError(f"{first!r} and {name!r} would have one address: name one of them, NAME=DIR")


def _parts(spec: str) -> tuple[str, Path]:
    """The name and the folder of `DIR` or `NAME=DIR`; of a folder alone, its own name. Either may hold more '='."""
    name, equals, folder = spec.partition("=")
    if not equals or Path(spec).is_dir():
        return Path(spec).resolve().name or "model", Path(spec)
    if not (name and folder):
        raise InputError(f"`model={spec}` lacks {'a folder' if name else 'a name'}: give DIR or NAME=DIR")
    if name.strip(NAMED) or not name.strip("."):
        raise InputError(
            f"{spec} is no folder, and {name!r} cannot be in an address: name the model by letters, digits, '.', '_' and '-'"
        )
    return name, Path(folder)


def _in_addresses(name: str) -> str:
    return "".join(letter if letter in NAMED else "_" for letter in name)
