"""The pictures of an episode, as an animated GIF or a folder of PNGs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmgym.errors import ConfigError, EnvError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

__all__ = ["Film"]

CAPTION_HEIGHT = 24
FRAME_MILLISECONDS = 500


class Film:
    """Collects pictures with a caption each, and saves them.

    Args:
        path: a file that ends in .gif, or a folder, which is made.

    Raises:
        ConfigError: the path is a file of another kind, or its folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pictures: list[Image] = []
        if path.suffix and path.suffix.lower() != ".gif":
            raise ConfigError(f"Expected --render FILE.gif or a folder, found {path}. Give the file the ending .gif.")
        folder = path.parent if self._is_gif else path
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"Expected to be able to make the folder {folder}, found: {error.strerror}. Choose another --render."
            ) from error

    @property
    def _is_gif(self) -> bool:
        return self._path.suffix.lower() == ".gif"

    def add(self, frame: npt.NDArray[np.uint8] | None, caption: str) -> None:
        """Keep a picture.

        Args:
            frame: uint8 (height, width, 3).

        Raises:
            EnvError: there is no picture, because the environment draws none.
        """
        if frame is None:
            raise EnvError("Expected the environment to draw pictures, found that it draws none. Leave out --render.")
        from PIL import Image, ImageDraw

        height, width = frame.shape[:2]
        picture = Image.new("RGB", (width, height + CAPTION_HEIGHT), "white")
        picture.paste(Image.fromarray(frame), (0, 0))
        ImageDraw.Draw(picture).text((6, height + 6), caption, fill="black")
        self._pictures.append(picture)

    def save(self) -> int:
        """Write the pictures, and return how many there are."""
        if self._is_gif and self._pictures:
            first, *others = self._pictures
            first.save(self._path, save_all=True, append_images=others, duration=FRAME_MILLISECONDS, loop=0)
        elif not self._is_gif:
            for number, picture in enumerate(self._pictures):
                picture.save(self._path / f"turn-{number:03d}.png")
        return len(self._pictures)
