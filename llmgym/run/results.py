"""What a run comes to: measured policies, as a table row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmgym.rollout.success import SuccessRate

__all__ = ["EvalResult", "EvalRow", "TrainResult", "eval_row"]


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One measured policy.

    Attributes:
        name: of the policy: "random", "clone", "corrected", "trained", or what was asked for.
        success: share of episodes with a return above 0.
        low: lower end of the 95 % Wilson interval of `success`.
        high: upper end of it.
        episodes: held-out episodes that were played.
        mean_return: mean undiscounted return of an episode.
        mean_turns: mean length of an episode.
        unparsed: share of turns whose answer named no action.
        given_up: episodes in which an agent knew no further or a prompt outgrew the context; they count as failures.
    """

    name: str
    success: float
    low: float
    high: float
    episodes: int
    mean_return: float
    mean_turns: float
    unparsed: float = 0.0
    given_up: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return everything but the name."""
        row = asdict(self)
        del row["name"]
        return row


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What `train` leaves.

    Attributes:
        rows: measured policies, in the order of the stages.
        run_dir: the run folder.
        seconds: of the whole run; where it was resumed, of all its parts.
    """

    rows: tuple[EvalRow, ...]
    run_dir: Path
    seconds: float


@dataclass(frozen=True, slots=True)
class EvalResult:
    """What `evaluate` measured.

    Attributes:
        row: the policy's.
        env: id of the environment.
        env_settings: its keyword arguments.
        first_seed: the episodes' seeds are first_seed, first_seed + 1, ...
        temperature: of the actions.
        seconds: the playing took.
        other_missions: whether every episode was told another one's mission.
        beta: how much heads guided the policy, where that was asked for.
    """

    row: EvalRow
    env: str
    env_settings: dict[str, Any]
    first_seed: int
    temperature: float
    seconds: float
    other_missions: bool = False
    beta: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what is needed to repeat the measurement, with its outcome."""
        facts = asdict(self)
        del facts["row"]
        return {"policy": self.row.name, **facts, **self.row.to_json()}


def eval_row(name: str, measured: SuccessRate | Mapping[str, Any]) -> EvalRow:
    """Give a measurement its name."""
    fields = asdict(measured) if isinstance(measured, SuccessRate) else dict(measured)
    return EvalRow(name=name, **fields)
