"""Play FrozenLake in text: give TextEnv a sentence for each observation and a name for each action."""

from __future__ import annotations

import gymnasium

from llmgym.text import TextEnv

TILES = {b"S": "the start", b"F": "ice", b"H": "a hole", b"G": "the goal"}
MOVES = {"go left": (0, -1), "go down": (1, 0), "go right": (0, 1), "go up": (-1, 0)}


def make() -> TextEnv:
    """Make a frozen lake that tells what lies around the agent."""
    lake = gymnasium.make("FrozenLake-v1", is_slippery=False)
    tiles = lake.get_wrapper_attr("desc")
    num_rows, num_columns = tiles.shape

    def describe(cell: int) -> str:
        row, column = divmod(int(cell), num_columns)
        sights = [f"You stand on {TILES[tiles[row, column]]}"]
        for move, (down, right) in MOVES.items():
            beside = row + down, column + right
            if 0 <= beside[0] < num_rows and 0 <= beside[1] < num_columns:
                sights.append(f"if you {move} you reach {TILES[tiles[beside]]}")
        return ", ".join(sights)

    return TextEnv(lake, describe=describe, actions=tuple(MOVES), mission="reach the goal without falling into a hole")


def main() -> float:
    """Walk to the goal, print what is seen, and return the reward."""
    env = make()
    observation, info = env.reset(seed=0)
    print(f"Mission: {observation['mission']}")
    reward = 0.0
    for move in ("go down", "go down", "go right", "go right", "go down", "go right"):
        print(f"{observation['text']}\n> {move}")
        observation, step_reward, terminated, _, info = env.step(info["actions"].index(move))
        reward += float(step_reward)
    print(f"{observation['text']}\nReward {reward}, terminated: {terminated}")
    env.close()
    return reward


if __name__ == "__main__":
    main()
