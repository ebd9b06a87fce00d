"""The keeping engine: decisions that took long are kept in a file as they are made, and are not made twice.

Knows neither collector nor protocol.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmgym.types import Acting, Choice, Context, Decides, Parser

__all__ = ["KeepingEngine"]


class KeepingEngine:
    """What a collector needs of an engine, with a memory that outlives the process.

    A decision is found again by all that it was drawn from: context, candidates, how, and its own seed, which does
    not count at temperature 0: an agent that walks into a wall, again and again, is asked once there. Where a decision
    has no seed of its own, it is neither kept nor found. Whoever gives the file answers for the rest: it is of one
    policy, and one parser.

    Attributes:
        num_found: decisions that were made before, and handed out again.
        num_made: decisions that the engine made.
    """

    def __init__(self, engine: Decides, file: Path | None = None, watch: Callable[[], object] | None = None) -> None:
        """Read what the file holds; a last line that was cut off is dropped.

        Args:
            file: JSON lines, a decision each; it is made with the first one. None remembers in this process only.
            watch: called whenever decisions were made.
        """
        self._engine = engine
        self._file = file
        self._watch = watch
        self.tokenizer: Any = engine.tokenizer
        self.max_context_tokens: int = engine.max_context_tokens
        self.num_found = self.num_made = 0
        self._num_begun = 0
        self._found: list[tuple[int, Choice]] = []
        """Decisions that were started and had been made before: our ticket, and the choice."""
        self._under_way: dict[int, tuple[int, str]] = {}
        """The engine's ticket of each decision, to ours and to the decision's key ("" where it has none)."""
        self._kept = {} if file is None else _read(file)

    @property
    def num_kept(self) -> int:
        """How many decisions are remembered: those of the file, and what was made since."""
        return len(self._kept)

    def act(
        self,
        contexts: Sequence[Context],
        candidates: Sequence[Sequence[Context]],
        acting: Acting,
        seed: int | Sequence[int] | None = None,
        *,
        parse: Parser | None = None,
        adapter: str = "policy",
    ) -> list[Choice]:
        """Take one action for every context, asking the engine for those not made before; see `Engine.act`."""
        if seed is None or isinstance(seed, int):
            return self._engine.act(contexts, candidates, acting, seed, parse=parse, adapter=adapter)
        asked = list(zip(contexts, candidates, seed, strict=True))
        keys = [_key_of(*one, acting, adapter) for one in asked]
        choices = [self._kept.get(key) for key in keys]
        missing = [index for index, choice in enumerate(choices) if choice is None]
        if missing:
            made = self._engine.act(
                [contexts[index] for index in missing],
                [candidates[index] for index in missing],
                acting,
                [seed[index] for index in missing],
                parse=parse,
                adapter=adapter,
            )
            for index, choice in zip(missing, made, strict=True):
                choices[index] = choice
            self._keep([(keys[index], choice) for index, choice in zip(missing, made, strict=True)])
        self.num_found += len(asked) - len(missing)
        return [choice for choice in choices if choice is not None]

    def start(
        self,
        context: Context,
        candidates: Sequence[Context],
        acting: Acting,
        seed: int | None = None,
        *,
        parse: Parser | None = None,
        adapter: str = "policy",
    ) -> int:
        """Begin to take one action, unless it was made before; see `Engine.start`."""
        ours = self._num_begun
        self._num_begun += 1
        key = "" if seed is None else _key_of(context, candidates, seed, acting, adapter)
        kept = self._kept.get(key)
        if kept is not None:
            self._found.append((ours, kept))
        else:
            theirs = self._engine.start(context, candidates, acting, seed, parse=parse, adapter=adapter)
            self._under_way[theirs] = ours, key
        return ours

    def advance(self) -> list[tuple[int, Choice]]:
        """Hand out what was made before, or else compute for a while; see `Engine.advance`."""
        if self._found:
            found, self._found = self._found, []
            self.num_found += len(found)
            return found
        try:
            made = [(*self._under_way.pop(ticket), choice) for ticket, choice in self._engine.advance()]
        except BaseException:
            # The engine has forgotten them, too.
            self._under_way.clear()
            raise
        self._keep([(key, choice) for _, key, choice in made])
        return [(ours, choice) for ours, _, choice in made]

    def _keep(self, made: Sequence[tuple[str, Choice]]) -> None:
        """Write down decisions that were made, those with a key."""
        self.num_made += len(made)
        keyed = [(key, choice) for key, choice in made if key]
        self._kept.update(keyed)
        if self._file is not None and keyed:
            with self._file.open("a", encoding="utf-8") as output:
                output.writelines(_line(key, choice) for key, choice in keyed)
        if self._watch is not None and made:
            self._watch()


def _key_of(context: Context, candidates: Sequence[Context], seed: int, acting: Acting, adapter: str) -> str:
    drawn_with = int(seed) if acting.temperature else 0
    told = [_told(context), [_told(one) for one in candidates], drawn_with, asdict(acting), adapter]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _told(context: Context) -> str | list[int]:
    return context if isinstance(context, str) else [int(token) for token in context]


def _line(key: str, choice: Choice) -> str:
    """Write a decision as a line; JSON repeats its floats to the bit."""
    told = {**asdict(choice), "logprobs": choice.logprobs.tolist()}
    return json.dumps({"key": key, "choice": told}) + "\n"


def _read(file: Path) -> dict[str, Choice]:
    """Read decisions back by their keys; what was cut off at the end is cut off from the file, too."""
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    rows = map(json.loads, whole.splitlines())
    return {row["key"]: _choice(row["choice"]) for row in rows}


def _choice(told: dict[str, Any]) -> Choice:
    return Choice(
        **{
            **told,
            "logprobs": np.array(told["logprobs"], dtype=np.float32),
            "candidate_ids": tuple(map(tuple, told["candidate_ids"])),
            "sampled_ids": tuple(told["sampled_ids"]),
            "cue_ids": tuple(told["cue_ids"]),
            "draw_logprobs": tuple(told["draw_logprobs"]),
        }
    )
