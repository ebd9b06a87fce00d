"""ScoreActions: a vector wrapper that tells, at every step, how likely the model takes each action."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from llmgym.candidates import close_prefixes, constrained_logprobs, log_softmax
from llmgym.errors import EnvError
from llmgym.text.histories import Histories, action_index
from llmgym.text.prompt import PromptSettings, make_prompt
from llmgym.types import Acting, Engine, FloatArray, TokenIds

__all__ = ["ScoreActions"]


class ScoreActions(VectorWrapper):
    """Keep the prompts of a vector of text environments, ask the engine, and put its answer into the infos.

    `info["action_logprobs"]`, float32 (num_envs, num_actions), holds after every reset and step the log-probability
    of each action of the current state under the model (padded with -inf where an environment has fewer actions);
    `info["policy_version"]` the version of the weights that gave them. The caller samples from it, or from anything
    else, and steps: any RL library can drive. All autoreset modes of Gymnasium are kept to.

    Args:
        env: a vector environment with the observation `Dict(mission, text)` and `info["actions"]`.
        engine: who answers.
        prompt: how the history is told.
        acting: normalisation and temperature of the distribution; `how` as in `Engine.choose`.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        engine: Engine,
        *,
        prompt: PromptSettings | None = None,
        acting: Acting | None = None,
    ) -> None:
        super().__init__(env)
        settings = prompt or PromptSettings()
        self.engine = engine
        self.acting = acting or Acting()
        if self.acting.how not in ("score", "constrained"):
            raise EnvError(
                f"Expected 'score' or 'constrained' for action log-probabilities, found {self.acting.how!r}: after "
                "free text, they depend on what is written. Use engine.act."
            )
        if self.acting.temperature <= 0:
            raise EnvError(
                f"Expected a temperature above 0 for action log-probabilities, found {self.acting.temperature}."
            )
        self.histories = Histories(
            self.num_envs, lambda: make_prompt(settings, engine.tokenizer, engine.max_context_tokens)
        )
        self._mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._ended: npt.NDArray[np.bool_] = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environments (those of `options["reset_mask"]`, else all), and score their first actions."""
        # The vector environment takes the mask out of the options: read it before.
        mask = np.ones(self.num_envs, dtype=np.bool_)
        if options is not None and "reset_mask" in options:
            mask = np.array(options["reset_mask"], dtype=np.bool_)
        # A vector takes a list of seeds too, which its annotation does not say (gymnasium 1.4).
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        for env_index in np.flatnonzero(mask):
            self.histories.begin(int(env_index), observations, infos)
        self._ended[mask] = False
        return observations, self._scored(infos)

    def step(
        self, actions: Any
    ) -> tuple[Any, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]]:
        """Step the environments, extend the prompts by what was done, and score the next actions."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        ended = np.logical_or(terminations, truncations)
        for env_index in range(self.num_envs):
            begins = (self._mode == AutoresetMode.NEXT_STEP and self._ended[env_index]) or (
                self._mode == AutoresetMode.SAME_STEP and ended[env_index]
            )
            if begins:
                self.histories.begin(env_index, observations, infos)
            else:
                taken = action_index(actions[env_index], self.histories[env_index].actions)
                self.histories.extend(env_index, taken, observations, infos)
        self._ended = ended
        return observations, rewards, terminations, truncations, self._scored(infos)

    def _scored(self, infos: dict[str, Any]) -> dict[str, Any]:
        candidate_ids: list[tuple[TokenIds, ...]] = [history.candidate_ids for history in self.histories]
        if self.acting.how == "constrained":
            candidate_ids = [close_prefixes(ids, self.engine.tokenizer.eos_token_id) for ids in candidate_ids]
        scores = self.engine.score(
            [history.context_ids for history in self.histories],
            candidate_ids,
            "none" if self.acting.how == "constrained" else self.acting.normalize,
            ends_candidates=self.acting.ends_candidates,
        )
        logprobs: FloatArray = np.full((self.num_envs, max(map(len, candidate_ids))), -np.inf, dtype=np.float32)
        for env_index, (ids, entry) in enumerate(zip(candidate_ids, scores, strict=True)):
            if self.acting.how == "constrained":
                logprobs[env_index, : len(ids)] = constrained_logprobs(ids, entry, self.acting.temperature)
            else:
                logprobs[env_index, : len(ids)] = log_softmax(entry, self.acting.temperature)
        versions = np.full(self.num_envs, scores.policy_version, dtype=np.int64)
        return {**infos, "action_logprobs": logprobs, "policy_version": versions}
