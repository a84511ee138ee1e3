"""The tracker for TensorBoard."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.files import cannot_write
from robustcls.trackers._tracker import Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def tensorboard(folder: Path, config: Mapping[str, Any], start: int) -> Tracker:
    """Write event files for TensorBoard into `tensorboard/` of the run folder. Raises InputError without the package."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise InputError("`track=tensorboard` needs tensorboard: pip install 'robustcls[tensorboard]'") from None
    return EventFiles(folder / "tensorboard", config, start)


class EventFiles:
    """A Tracker that opens its event file when it is first used."""

    def __init__(self, folder: Path, config: Mapping[str, Any], start: int) -> None:
        self.folder, self.config, self.start, self.failed = folder, config, start, False

    @cached_property
    def writer(self) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        # What was logged at `start` stays valid. The configuration is logged at the next step, so a resumed run purges it.
        first = self.start + 1
        writer = SummaryWriter(str(self.folder), purge_step=first)
        writer.add_text("config", code_block(self.config), first)
        return writer

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._telling():
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
            self.writer.flush()

    def images(self, step: int, name: str, grid: Tensor) -> None:
        with self._telling():
            self.writer.add_image(name, grid, step)

    def close(self) -> None:
        if "writer" in vars(self) and not self.failed:
            with self._telling():
                self.writer.close()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Report an error of the writing thread, such as a full disk, once and in one line."""
        hook = threading.excepthook
        threading.excepthook = lambda found: None if issubclass(found.exc_type, OSError) else hook(found)
        try:
            yield
        except OSError as error:
            self.failed = True
            raise InputError(cannot_write(self.folder, error)) from None
        finally:
            threading.excepthook = hook


def code_block(config: Mapping[str, Any]) -> str:
    """Return the configuration as TOML in a Markdown code block, indented by four spaces."""
    given = {name: json.dumps(value, ensure_ascii=False) for name, value in config.items() if value is not None}
    return "\n".join(f"    {name} = {value}" for name, value in given.items())
