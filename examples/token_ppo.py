"""Token-level PPO: each token is an action, and the episode's reward is whether the right string was said.

python examples/token_ppo.py [MODEL]      (a folder or a hub id; without one, a small model is built on the spot)

The prompt is "Say {string}" and "Your turn:"; the reward is 1 as soon as the decoded tokens are that string. Two module
functions read the hosted model: the log-probabilities of the next token, and a value head.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmgym.algorithms.gae import advantages_and_returns
from llmgym.algorithms.ppo import clipped_policy_loss, value_loss
from llmgym.host import SCORE, Host, HostedModel, ModelSettings, ModelSpec, Rows, Shard
from llmgym.learner.tiny import TinySettings, build_tiny_model

STRINGS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
MAX_TOKENS = 4
SETTINGS = TinySettings(vocab_size=320, hidden_size=64, num_heads=4, intermediate_size=128, max_context_tokens=64)


class NextToken(torch.nn.Module):
    """The log-probability of every next token."""

    def read(self, rows: Rows, named: Mapping[str, Any]) -> Tensor:
        """Return float32 (num_rows, V)."""
        return rows.next_token_logprobs()


class Value(torch.nn.Module):
    """The value of a state."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(config.hidden_size, 1)
        torch.nn.init.zeros_(self.layer.weight)

    def read(self, rows: Rows, named: Mapping[str, Any]) -> Tensor:
        """Return float32 (num_rows,)."""
        return self.layer(rows.states().float()).squeeze(-1)


class TokenPPO:
    """PPO over tokens, with the optimizer in its own hands."""

    optimizer: torch.optim.Optimizer | None = None

    def update(self, module: torch.nn.Module, shard: Shard) -> float:
        """Go over the tokens three times; return the last loss."""
        trained = list(module.parameters())
        self.optimizer = self.optimizer or torch.optim.Adam(trained, lr=1e-3)
        data = {key: torch.as_tensor(value)[list(shard.indices)] for key, value in shard.data.items()}
        for _ in range(3):
            for part in torch.randperm(len(shard.contexts)).split(64):
                output = module(["next", "value"], [shard.contexts[index] for index in part])
                logprobs = torch.cat([entry["next"] for entry in output])
                values = torch.cat([entry["value"] for entry in output])
                taken = logprobs.gather(-1, data["tokens"][part, None]).squeeze(-1)
                policy = clipped_policy_loss(taken - data["logprobs"][part], data["advantages"][part], 0.2)
                value = value_loss(values, data["returns"][part], values, None)
                entropy = -(logprobs.exp() * logprobs).sum(-1)
                loss = (policy + 0.5 * value - 0.003 * entropy).mean()
                self.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 0.5)
                self.optimizer.step()
        return float(loss.detach())


def prompt_of(string: str) -> str:
    """Ask for a string."""
    return f"Say {string}\nYour turn:"


def warm_up(hosted: HostedModel) -> None:
    """Teach a model that knows nothing to say strings; half of what it imitates is not what was asked for."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(hosted.language_model.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for _ in range(80):
        asked = rng.choice(STRINGS, 16)
        said = [string if rng.random() < 0.5 else rng.choice(STRINGS) for string in asked]
        results = hosted([SCORE], [prompt_of(string) for string in asked], [[string] for string in said])
        loss = -torch.cat([result[SCORE] for result in results]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def play(host: Host, tokenizer: Any, num_episodes: int, rng: np.random.Generator) -> list[tuple[Any, ...]]:
    """Play episodes side by side; return for each its prompts, tokens, log-probabilities, values, and its reward."""
    asked = [str(string) for string in rng.choice(STRINGS, num_episodes)]
    prompts = [tokenizer.encode(prompt_of(string), add_special_tokens=False) for string in asked]
    episodes = [([], [], [], []) for _ in asked]
    rewards = [0.0] * num_episodes
    open_ones = list(range(num_episodes))
    for _ in range(MAX_TOKENS):
        # What was sampled stays token ids: decoded and encoded again, it might be other tokens.
        contexts = [[*prompts[index], *episodes[index][1]] for index in open_ones]
        for index, context, entry in zip(
            open_ones, contexts, host.run_modules(["next", "value"], contexts), strict=True
        ):
            logprobs = entry["next"][0]
            token = int(torch.multinomial(logprobs.exp(), 1))
            for column, item in zip(
                episodes[index], (context, token, float(logprobs[token]), float(entry["value"][0])), strict=True
            ):
                column.append(item)
            rewards[index] = float(tokenizer.decode(episodes[index][1]) == asked[index])
        open_ones = [index for index in open_ones if not rewards[index]]
        if not open_ones:
            break
    return [(*episode, reward) for episode, reward in zip(episodes, rewards, strict=True)]


def main(model: str | None = None, num_updates: int = 12) -> list[float]:
    """Train, and return the share of strings said rightly in each update's episodes."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            build_tiny_model(Path(folder), [prompt_of(string) for string in STRINGS] * 3, [], SETTINGS, seed=0)
        spec = ModelSpec(
            ModelSettings(model or folder, minibatch_size=128),
            {"next": NextToken(), "value": Value},
            initialise=warm_up if model is None else None,
            updater=TokenPPO(),
        )
        host = Host({"policy": spec})
        tokenizer = HostedModel.load(spec.settings).inputs.tokenizer
    shares = []
    for update in range(num_updates):
        episodes = play(host, tokenizer, 64, rng)
        estimates = [
            advantages_and_returns([0.0] * (len(tokens) - 1) + [reward], values, 0.0, gamma=0.99, lam=0.95)
            for _, tokens, _, values, reward in episodes
        ]
        advantages, returns = (np.concatenate(column) for column in zip(*estimates, strict=True))
        (loss,) = host.update(
            [context for episode in episodes for context in episode[0]],
            data={
                "tokens": [token for episode in episodes for token in episode[1]],
                "logprobs": [logprob for episode in episodes for logprob in episode[2]],
                "advantages": (advantages - advantages.mean()) / (advantages.std() + 1e-8),
                "returns": returns,
            },
        )
        shares.append(float(np.mean([episode[4] for episode in episodes])))
        print(f"update {update + 1}: said rightly {shares[-1]:.2f}, loss {loss:.3f}")
    host.close()
    return shares


if __name__ == "__main__":
    main(*sys.argv[1:2])
