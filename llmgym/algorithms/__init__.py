"""Pure losses and advantage estimators: no model, no optimizer, no environment. Importing it does not load torch."""

from llmgym.algorithms.algorithm import Algorithm, Outputs, ReadsText, StopsEarly, Targets
from llmgym.algorithms.clone import BehaviourCloning
from llmgym.algorithms.gae import advantages_and_returns, trajectory_advantages
from llmgym.algorithms.ppo import PPO
from llmgym.algorithms.registry import ALGORITHMS, algorithm_class

__all__ = [
    "ALGORITHMS",
    "PPO",
    "Algorithm",
    "BehaviourCloning",
    "Outputs",
    "ReadsText",
    "StopsEarly",
    "Targets",
    "advantages_and_returns",
    "algorithm_class",
    "trajectory_advantages",
]
