"""TextWorld (Côté et al. 2018, https://arxiv.org/abs/1806.11532): generated text adventures, played by typing commands.

Needs the package textworld, the extra of that name. A game is generated when it is first played.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.spaces import Dict

from llmgym.errors import EnvError
from llmgym.text.space import UnicodeText

__all__ = ["TextWorldGame"]

_MAX_TEXT_LENGTH = 8192
_MAX_COMMAND_LENGTH = 256

_STATUS_LINE = re.compile(r">\s*-= [^=]*=-\s*\d+/\d+\s*$")
"""Room, score and number of moves, which the game draws behind what it says."""


class TextWorldGame(gymnasium.Env[Any, str]):
    """Play games of one size. An action is a command; `info["actions"]` holds those that do something right now.

    Any other text is a command too; the game answers that it does not understand. The reward is the points gained by
    a command; an episode ends when the game is won or lost.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012  (Gymnasium declares it so)

    def __init__(
        self,
        *,
        num_rooms: int = 3,
        num_objects: int = 6,
        quest_length: int = 3,
        num_games: int = 16,
        first_game: int = 0,
        render_mode: str | None = None,
    ) -> None:
        """Make the environment; games are generated later.

        Args:
            num_rooms: rooms of each game.
            num_objects: objects in them.
            quest_length: commands that the shortest solution takes.
            num_games: how many games there are; an episode plays one of them, drawn with its seed.
            first_game: number of the first of them; other numbers are other games.
            render_mode: "ansi" shows what the game has just said, None nothing.

        Raises:
            EnvError: the package textworld is not installed, or a number is not positive.
        """
        if find_spec("textworld") is None:
            raise EnvError(
                "Expected the package textworld, found none. Install it: pip install 'llmgym[textworld]', or pip "
                "install textworld."
            )
        sizes = {"num_rooms": num_rooms, "num_objects": num_objects, "quest_length": quest_length}
        for name, number in (sizes | {"num_games": num_games}).items():
            if number < 1:
                raise EnvError(f"Expected {name} >= 1, got {number}. Give a positive number.")
        self._sizes = (num_rooms, num_objects, quest_length)
        self._num_games = num_games
        self._first_game = first_game
        self.render_mode = render_mode
        self.observation_space = Dict({"mission": UnicodeText(_MAX_TEXT_LENGTH), "text": UnicodeText(_MAX_TEXT_LENGTH)})
        self.action_space = UnicodeText(_MAX_COMMAND_LENGTH)
        self._game: Any = None
        self._game_file: Path | None = None
        self._mission = self._text = ""
        self._score = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Draw a game, generate it if it was never played in this process, and start it; options are not used."""
        super().reset(seed=seed)
        self._open(self._first_game + int(self.np_random.integers(self._num_games)))
        with _without_warnings():
            state = self._game.reset()
        self._mission, self._score = _one_line(state.objective), 0
        # What the game itself says first is a title drawn in letters, and the mission.
        self._text = f"{_one_line(state.description)} {_one_line(state.inventory)}"
        return self._observe(), self._inform(state)

    def step(self, action: str) -> tuple[dict[str, str], float, bool, bool, dict[str, Any]]:
        """Type a command.

        Raises:
            EnvError: the command is no text.
        """
        if not isinstance(action, str):
            raise EnvError(f"Expected a command, got {action!r:.80}. Give one of info['actions'] as text.")
        # The game reads one line of Latin letters.
        command = " ".join(action.encode("ascii", "ignore").decode().split())
        state, score, is_done = self._game.step(command or "wait")
        self._text = _one_line(_STATUS_LINE.sub("", state.feedback))
        reward, self._score = float(score - self._score), score
        return self._observe(), reward, bool(is_done), False, self._inform(state)

    def render(self) -> Any:
        """Return what the game has just said, or None without a render mode."""
        return self._text if self.render_mode == "ansi" else None

    def close(self) -> None:
        """End the game."""
        if self._game is not None:
            self._game.close()
            self._game = self._game_file = None

    def _open(self, number: int) -> None:
        """Start the interpreter on a game, unless it is the one that it runs."""
        import textworld

        file = _generate(*self._sizes, number)
        if file == self._game_file:
            return
        self.close()
        wanted = ("description", "inventory", "objective", "admissible_commands", "won", "lost", "score")
        with _without_warnings():
            self._game = textworld.start(str(file), textworld.EnvInfos(**dict.fromkeys(wanted, True)))
        self._game_file = file

    def _observe(self) -> dict[str, str]:
        return {"mission": self._mission, "text": self._text[:_MAX_TEXT_LENGTH]}

    def _inform(self, state: Any) -> dict[str, Any]:
        won, lost = bool(state.won), bool(state.lost)
        return {"actions": tuple(state.admissible_commands or ()), "won": won, "lost": lost}


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep the interpreter quiet: it warns that it knows the scores of famous games only; TextWorld tells its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Game .* is not fully supported")
        yield


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Make the folder that generated games are kept in until the process ends."""
    return tempfile.TemporaryDirectory(prefix="llmgym-textworld-")


@cache
def _generate(num_rooms: int, num_objects: int, quest_length: int, number: int) -> Path:
    """Generate a game, which takes seconds, and return its file."""
    from textworld import GameOptions
    from textworld.generator import compile_game, make_game

    options = GameOptions()
    options.nb_rooms, options.nb_objects, options.quest_length = num_rooms, num_objects, quest_length
    options.seeds = number
    options.path = str(Path(_folder().name) / f"{num_rooms}-{num_objects}-{quest_length}-{number}.z8")
    return Path(compile_game(make_game(options), options))


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
