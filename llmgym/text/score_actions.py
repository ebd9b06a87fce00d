"""ScoreActions: a vector wrapper that tells, at every step, how likely the model takes each action."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper

from llmgym.errors import EnvError
from llmgym.text.histories import Histories, action_index
from llmgym.text.prompt import PromptSettings, make_prompt
from llmgym.types import Acting, Engine, FloatArray

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
                taken = action_index(actions[env_index], self.histories.actions[env_index])
                self.histories.extend(env_index, taken, observations, infos)
        self._ended = ended
        return observations, rewards, terminations, truncations, self._scored(infos)

    def _scored(self, infos: dict[str, Any]) -> dict[str, Any]:
        choices = self.engine.choose(
            [prompt.token_ids for prompt in self.histories.prompts],
            self.histories.candidate_ids,
            how=self.acting.how,
            temperature=self.acting.temperature,
            seed=0,
            normalize=self.acting.normalize,
        )
        num_actions = max(len(choice.logprobs) for choice in choices)
        logprobs: FloatArray = np.full((self.num_envs, num_actions), -np.inf, dtype=np.float32)
        for env_index, choice in enumerate(choices):
            logprobs[env_index, : len(choice.logprobs)] = choice.logprobs
        versions = np.array([choice.policy_version for choice in choices], dtype=np.int64)
        return {**infos, "action_logprobs": logprobs, "policy_version": versions}
