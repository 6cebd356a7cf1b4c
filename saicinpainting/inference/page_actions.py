"""What the page's controls do."""

from __future__ import annotations

import re
import string
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from saicinpainting.inference.edges import EdgeSettings
from saicinpainting.inference.page_images import (
    GONE,
    Photograph,
    hole_of_drawing,
    open_photograph,
    painted_layer,
    write_result,
)
from saicinpainting.inference.page_models import PageModels
from saicinpainting.inference.page_turns import Turns
from saicinpainting.inference.stopping import StoppedError, check_stop
from saicinpainting.utils import InputError


class Actions:
    """What the page's controls do; each gives the new values of those it changes."""

    def __init__(self, gradio: Any, models: PageModels, turns: Turns, folder: Path, max_megapixels: float) -> None:
        self.gradio, self.models, self.turns = gradio, models, turns
        self.folder, self.max_megapixels = folder, max_megapixels

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Mistakes appear on the page, without the server's folders."""
        try:
            yield
        except InputError as error:
            line = re.sub(r"(?<!\w)/(?:[^\s/:;,()']+/)+", "", str(error))
            raise self.gradio.Error(line, print_exception=False) from error

    def load(self, file: str | None) -> tuple[Any, ...]:
        """A file to the photograph, the editor with it, and whether the places for both are seen."""
        if file is None:
            raise self.gradio.Error("no photograph came", print_exception=False)
        with self._told():
            photograph = open_photograph(Path(file), self.folder, max_megapixels=self.max_megapixels)
        return self._shown(photograph)

    def _shown(self, photograph: Photograph, layers: list[Any] | None = None) -> tuple[Any, ...]:
        with self._told():
            if not photograph.preview.is_file():
                raise InputError(GONE)
        drawing = {"background": str(photograph.preview), "layers": layers or [], "composite": None}
        height, width = photograph.size
        about = f"{_literal(photograph.name)}, {width} × {height} pixels"
        seen = self.gradio.update(visible=True)
        return (
            photograph,
            self.gradio.update(value=drawing, visible=True),
            self.gradio.update(visible=False, value=None),
            seen,
            self.gradio.update(value=about, visible=True),
        )

    def load_mask(self, file: str, photograph: Photograph | None) -> tuple[Any, ...]:
        with self._told():
            if photograph is None:
                raise InputError("load a photograph first")
            masked = photograph.with_mask(Path(file), max_megapixels=self.max_megapixels)
            layer = painted_layer(masked.uploaded_hole(), masked.preview_size)
        return self._shown(masked, [layer])

    def clear(self, photograph: Photograph | None) -> tuple[Any, ...]:
        """The photograph with nothing painted: the editor's bin takes both away."""
        with self._told():
            if photograph is None:
                raise InputError("load a photograph first")
        return self._shown(replace(photograph, mask=None))

    def go_on(self, photograph: Photograph, result: str) -> tuple[Any, ...]:
        """The result as the next photograph."""
        with self._told():
            again = open_photograph(Path(result), self.folder, max_megapixels=self.max_megapixels)
        return self._shown(again)

    def limit_feather(self, grow: int, feather: int) -> Any:
        return self.gradio.update(maximum=max(grow, 1), value=min(feather, grow), interactive=grow > 0)

    def choose(self, session: str, name: str) -> str:
        with suppress(StoppedError), self._told(), self.turns.turn(session):
            self.models.get(name)
        return self.models.describe(name)

    def begin(self, session: str) -> tuple[Any, ...]:
        """Stop in the place of Fill, and the place where progress is shown."""
        self.turns.expect(session)
        stop = self.gradio.update(visible=True, value="Stop", interactive=True)
        return self.gradio.update(visible=False), stop, self.gradio.update(visible=True)

    def stop(self, session: str) -> tuple[Any, ...]:
        if not self.turns.stop(session):  # the browser was offline when the fill ended
            return self.end()
        return self.gradio.skip(), self.gradio.update(value="Stopping …", interactive=False), self.gradio.skip()

    def leave(self, session: str) -> None:
        """The page is closed or loaded anew."""
        self.turns.stop(session)

    def end(self) -> tuple[Any, ...]:
        """What `begin` did undone."""
        return self.gradio.update(visible=True), self.gradio.update(visible=False), self.gradio.update(visible=False)

    def fill(self, session: str, *chosen: Any) -> tuple[Any, ...]:
        """`_filled` when it is its turn; nothing changes if it is stopped."""
        if self.turns.are_taken():
            self.gradio.Info("The model is busy. Your fill starts by itself.", duration=5)
        try:
            with self.turns.turn(session):
                return self._filled(*chosen)
        except StoppedError:
            self.gradio.Info("Stopped. What you painted is still there.", duration=5)
            return (self.gradio.skip(),) * 6

    def _filled(
        self,
        photograph: Photograph | None,
        drawing: Mapping[str, Any] | None,
        name: str,
        grow: int,
        feather: int,
        match_colors: bool,
        refine: bool,
    ) -> tuple[Any, ...]:
        """Everything chosen to both previews, the file to download, and what the result is."""
        with self._told():
            if photograph is None:
                raise InputError("load a photograph first")
            edge = EdgeSettings(grow, feather, match_colors)
            hole = hole_of_drawing(drawing, photograph.uploaded_hole(), photograph.preview_size)
            network = self.models.get(name, refine=refine)
            start = time.perf_counter()
            image, extras = photograph.read()
            filled = network(image, hole, edge, deep=extras.deep)
            check_stop()
            path, preview = write_result(self.folder, photograph, filled, extras)
        height, width = photograph.size
        seconds = time.perf_counter() - start
        about = f"{_literal(name)}{', refined' if refine else ''}: {width} × {height} pixels in {seconds:.1f} seconds"
        shown = self.gradio.update(visible=True)
        return (
            self.gradio.update(value=(str(photograph.preview), str(preview)), visible=True),
            self.gradio.update(value=str(path), visible=True),
            shown,
            self.gradio.update(value=about, visible=True),
            str(path),
            self.gradio.update(visible=False),
        )


def _literal(name: str) -> str:
    """As Markdown that shows it as it is."""
    return re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", name)
