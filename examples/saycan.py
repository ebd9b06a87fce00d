"""SayCan: what a language model would do next, times what the robot can do now (Ahn et al. 2022).

https://arxiv.org/abs/2204.01691, equation 1. python examples/saycan.py [MODEL]

A tabletop is simulated with blocks and bowls of several colors. The model scores every pick-and-place command and
"done()"; an affordance says which can be done in the scene. Without a model named, a small one is built, and taught on
a few hundred plans.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from llmgym.host import SCORE, HostedModel, ModelSettings
from llmgym.learner.tiny import TinySettings, build_tiny_model

COLORS = ("red", "green", "blue")
BLOCKS = tuple(f"{color} block" for color in COLORS)
BOWLS = tuple(f"{color} bowl" for color in COLORS)
CORNERS = ("top left corner", "bottom right corner")
DONE = "done()"
TASK = "put every block into the bowl of its color."
COMMANDS = (*(f"robot.pick_and_place({block}, {place})" for block in BLOCKS for place in (*BOWLS, *CORNERS)), DONE)
MAX_STEPS = 6
SETTINGS = TinySettings(vocab_size=400, hidden_size=128, num_heads=4, intermediate_size=256, max_context_tokens=256)


@dataclass
class Tabletop:
    """Blocks and bowls on a table; bowls hold blocks, corners always have room."""

    blocks: tuple[str, ...]
    bowls: tuple[str, ...]
    places: dict[str, str] = field(default_factory=dict)

    @classmethod
    def random(cls, rng: np.random.Generator) -> Tabletop:
        """Set one or two blocks on the table, each with the bowl of its color, and maybe a bowl more."""
        colors = [str(color) for color in rng.permutation(COLORS)]
        num_blocks = int(rng.integers(1, 3))
        blocks = tuple(f"{color} block" for color in colors[:num_blocks])
        bowls = tuple(f"{color} bowl" for color in sorted(colors[: num_blocks + int(rng.integers(0, 2))]))
        return cls(blocks, bowls)

    def describe(self) -> str:
        """Tell what is seen, and the task."""
        return f"objects = [{', '.join((*self.blocks, *self.bowls))}]\n# {TASK}\n"

    def affordances(self) -> np.ndarray:
        """Return for each command how well it can be done: 1, or 0; ending is always possible, but not preferred."""
        return np.array([0.2 if command == DONE else float(self.can(command)) for command in COMMANDS])

    def can(self, command: str) -> bool:
        """Tell whether a block can be picked and placed: both are here, and it does not lie there yet."""
        block, place = _parts(command)
        is_place = place in self.bowls or place in CORNERS
        return block in self.blocks and is_place and self.places.get(block) != place

    def do(self, command: str) -> None:
        """Pick and place; what cannot be done changes nothing."""
        if command != DONE and self.can(command):
            block, place = _parts(command)
            self.places[block] = place

    def is_solved(self) -> bool:
        """Tell whether every block lies in the bowl of its color."""
        return all(self.places.get(block) == block.replace("block", "bowl") for block in self.blocks)


def _parts(command: str) -> list[str]:
    return command.removeprefix("robot.pick_and_place(").removesuffix(")").split(", ")


def expert_plan(table: Tabletop) -> list[str]:
    """Return the commands that solve the task."""
    moves = [f"robot.pick_and_place({block}, {block.replace('block', 'bowl')})" for block in table.blocks]
    return [*moves, DONE]


def teach(hosted: HostedModel, num_steps: int, rng: np.random.Generator) -> None:
    """Make the steps of expert plans likelier."""
    optimizer = torch.optim.Adam(hosted.language_model.parameters(), lr=3e-3)
    for _ in range(num_steps):
        contexts, steps = [], []
        for table in [Tabletop.random(rng) for _ in range(12)]:
            prompt = table.describe()
            for command in expert_plan(table):
                contexts.append(prompt)
                steps.append([f"{command}\n"])
                prompt += f"{command}\n"
        loss = -torch.cat([result[SCORE] for result in hosted([SCORE], contexts, steps)]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hosted.parameters(), 1.0)
        optimizer.step()


def plan(hosted: HostedModel, table: Tabletop, *, use_affordances: bool) -> list[str]:
    """Choose commands one by one, doing each, until the task is said to be done."""
    prompt, commands = table.describe(), []
    for _ in range(MAX_STEPS):
        (scores,) = hosted.score([prompt], [[f"{command}\n" for command in COMMANDS]])
        combined = scores.double().numpy()
        if use_affordances:
            # The product of probability and affordance, as a sum of logarithms: a long command's probability is tiny.
            with np.errstate(divide="ignore"):
                combined = combined + np.log(table.affordances())
        commands.append(COMMANDS[int(combined.argmax())])
        if commands[-1] == DONE:
            break
        table.do(commands[-1])
        prompt += f"{commands[-1]}\n"
    return commands


def main(model: str | None = None, num_tasks: int = 10, num_steps: int = 120) -> dict[str, float]:
    """Plan for a few scenes with and without affordances; return the share of tasks solved by each."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            tables = [Tabletop.random(rng) for _ in range(50)]
            texts = [table.describe() + "\n".join(expert_plan(table)) for table in tables]
            build_tiny_model(Path(folder), [*texts, *COMMANDS], [], SETTINGS, seed=0)
        hosted = HostedModel.load(ModelSettings(model or folder))
    if model is None:
        teach(hosted, num_steps, rng)
    solved = {"say": 0.0, "say and can": 0.0}
    for task in range(num_tasks):
        for name in solved:
            table = Tabletop.random(np.random.default_rng(1000 + task))
            commands = plan(hosted, table, use_affordances=name != "say")
            solved[name] += table.is_solved() / num_tasks
        print(f"Task {task + 1}: {table.describe().splitlines()[0]}")
        print("\n".join(f"  {step + 1}. {command}" for step, command in enumerate(commands)))
    print(", ".join(f"{name}: {share:.0%} solved" for name, share in solved.items()))
    return solved


if __name__ == "__main__":
    main(*sys.argv[1:2])
