"""A script in Lamorel's manner: PPO on BabyAI-Text with a value head, an updater and an initialiser of its own.

python examples/lamorel_ppo.py [rl_script_args.use_lora=true] [lamorel_args.llm_args.load_in_4bit=true] [...]

Nothing is launched: with lamorel_args.distributed_setup_args.n_llm_processes=2 the Caller spawns two processes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from llmgym.algorithms.gae import advantages_and_returns
from llmgym.algorithms.ppo import clipped_policy_loss, value_loss
from llmgym.compat.lamorel import (
    BaseModelInitializer,
    BaseModuleFunction,
    BaseUpdater,
    Caller,
    lamorel_init,
    load_config,
)
from llmgym.learner.tiny import TinySettings, build_tiny_model

lamorel_init()


class ValueHead(BaseModuleFunction):
    """Predicts a state's value from the hidden state at the end of its prompt."""

    def initialize(self):
        """Make the layers: the model's config is known by now."""
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(self.llm_config.hidden_size, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1)
        ).to(self.device)

    def forward(self, forward_outputs, minibatch, tokenized_contexts, **kwargs):
        """Return one value a row."""
        # With pre_encode_inputs, the prompt's last token is the first of the row.
        return self.layers(forward_outputs["hidden_states"][-1][:, 0].float()).squeeze(-1).cpu()


class LoraInitializer(BaseModelInitializer):
    """Puts an adapter on the model before it is distributed."""

    def initialize_model(self, model):
        """Return the model with its adapter."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])
        model._modules["_LLM_model"] = get_peft_model(model._modules["_LLM_model"], config)
        return model.eval()


class PPOUpdater(BaseUpdater):
    """Takes PPO's steps on its shard of the turns; gradients are averaged over the processes."""

    def perform_update(self, contexts, candidates, _current_batch_ids, **kwargs):
        """Go over the turns a few times; return what is worth printing."""
        trained = [value for value in self._llm_module.parameters() if value.requires_grad]
        if not hasattr(self, "optimizer"):
            self.optimizer = torch.optim.Adam(trained, lr=kwargs["lr"])
        mine = {key: kwargs[key][_current_batch_ids] for key in ("actions", "logprobs", "advantages", "returns")}
        losses, ratios = [], []
        for _ in range(kwargs["ppo_epochs"]):
            for start in range(0, len(contexts), kwargs["minibatch_size"]):
                part = slice(start, start + kwargs["minibatch_size"])
                output = self._llm_module(
                    ["__score", "value"], contexts=contexts[part], candidates=candidates[part], require_grad=True
                )
                policy = torch.distributions.Categorical(logits=torch.stack([o["__score"] for o in output]))
                values = torch.stack([o["value"][0] for o in output])
                log_ratio = policy.log_prob(mine["actions"][part]) - mine["logprobs"][part]
                loss = clipped_policy_loss(log_ratio, mine["advantages"][part], kwargs["clip_eps"]).mean()
                loss = loss + kwargs["value_loss_coef"] * value_loss(values, mine["returns"][part], values, None).mean()
                loss = loss - kwargs["entropy_coef"] * policy.entropy().mean()
                self.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, kwargs["max_grad_norm"])
                self.optimizer.step()
                losses.append(loss.item())
                ratios.append(log_ratio.detach().exp().mean().item())
        return {"loss": float(np.mean(losses)), "first_ratio": ratios[0]}


def prompt_of(observation):
    """Tell a state as Lamorel's examples do."""
    return f"Goal of the agent: {observation['mission']}\nObservation: {observation['text']}\nAction:"


def build_model(task, folder):
    """Write a small Llama whose tokenizer knows the words of a task."""
    env = gym.make(task)
    observations = [env.reset(seed=seed) for seed in range(50)]
    texts = [prompt_of(observation) + " " + ", ".join(info["actions"]) for observation, info in observations]
    settings = TinySettings(vocab_size=400, hidden_size=64, num_heads=4, intermediate_size=128, max_context_tokens=512)
    build_tiny_model(folder, texts, [], settings, seed=0)


def collect(caller, envs, states, lengths, args):
    """Play every environment for some steps; return what happened, environment after environment."""
    tracks = [[] for _ in envs]
    for _ in range(args.steps_per_epoch):
        prompts = [prompt_of(observation) for observation, _ in states]
        candidates = [[f" {action}" for action in info["actions"]] for _, info in states]
        output = caller.score(prompts, candidates, additional_module_function_keys=["value"])
        for index, (env, entry) in enumerate(zip(envs, output, strict=True)):
            policy = torch.distributions.Categorical(logits=entry["__score"])
            action = policy.sample()
            observation, reward, terminated, truncated, info = env.step(int(action))
            lengths[index] += 1
            truncated = truncated or lengths[index] >= args.max_ep_len
            over = terminated or truncated
            value = entry["value"][0].item()
            turn = (prompts[index], candidates[index], action, policy.log_prob(action), value, float(reward))
            tracks[index].append((*turn, terminated, over, prompt_of(observation)))
            states[index] = env.reset() if over else (observation, info)
            lengths[index] = 0 if over else lengths[index]
    return tracks


def advantages(caller, track, args):
    """Return advantages and returns of one environment's turns, cut where its episodes were."""
    found, start = [], 0
    for end in [place for place, turn in enumerate(track) if turn[7] or place == len(track) - 1]:
        stretch = track[start : end + 1]
        terminated, final_prompt = stretch[-1][6], stretch[-1][8]
        # An episode that was cut would have gone on: its last return goes on with the value of the state after it.
        final = 0.0 if terminated else caller.custom_module_fns(["value"], [final_prompt])[0]["value"][0].item()
        rewards = [turn[5] * args.reward_scale for turn in stretch]
        values = [turn[4] for turn in stretch]
        found.append(advantages_and_returns(rewards, values, final, gamma=args.gamma, lam=args.lam))
        start = end + 1
    return [np.concatenate(column) for column in zip(*found, strict=True)]


def main(overrides):
    """Train, and return the mean reward of each epoch."""
    config = load_config(Path(__file__).with_suffix(".yaml"), overrides)
    args = config.rl_script_args
    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        if config.lamorel_args.llm_args.model_path == "tiny":
            build_model(args.task, Path(folder))
            config.lamorel_args.llm_args.model_path = folder
        caller = Caller(
            config.lamorel_args,
            custom_updater=PPOUpdater(),
            custom_module_functions={"value": ValueHead()},
            custom_model_initializer=LoraInitializer() if args.use_lora else None,
        )
    envs = [gym.make(args.task) for _ in range(args.number_envs)]
    states = [env.reset(seed=args.seed + index) for index, env in enumerate(envs)]
    lengths, means = [0] * len(envs), []
    for epoch in range(args.epochs):
        tracks = collect(caller, envs, states, lengths, args)
        estimates = [advantages(caller, track, args) for track in tracks]
        turns = [turn for track in tracks for turn in track]
        advantage, target = (torch.tensor(np.concatenate(column)) for column in zip(*estimates, strict=True))
        results = caller.update(
            [turn[0] for turn in turns],
            [turn[1] for turn in turns],
            actions=torch.stack([turn[2] for turn in turns]),
            logprobs=torch.stack([turn[3] for turn in turns]),
            advantages=(advantage - advantage.mean()) / (advantage.std() + 1e-8),
            returns=target,
            **{key: args[key] for key in ("lr", "ppo_epochs", "minibatch_size", "clip_eps")},
            **{key: args[key] for key in ("entropy_coef", "value_loss_coef", "max_grad_norm")},
        )
        means.append(float(np.mean([turn[5] for turn in turns])))
        loss, ratio = (np.mean([result[key] for result in results]) for key in ("loss", "first_ratio"))
        print(f"epoch {epoch + 1}: reward a turn {means[-1]:.3f}, loss {loss:.3f}, first ratio {ratio:.4f}")
    caller.close()
    return means


if __name__ == "__main__":
    main(sys.argv[1:])
