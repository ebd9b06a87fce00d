"""Pure losses and advantage estimators: no model, no optimizer, no environment. Importing it does not load torch."""

from llmgym.algorithms.a2c import A2C
from llmgym.algorithms.algorithm import Algorithm, EstimatesAdvantages, ReadsText, StopsEarly
from llmgym.algorithms.clone import BehaviourCloning
from llmgym.algorithms.dapo import DAPO
from llmgym.algorithms.dr_grpo import DrGRPO
from llmgym.algorithms.gae import advantages_and_returns, estimate_with_critic, trajectory_advantages
from llmgym.algorithms.gigpo import GiGPO
from llmgym.algorithms.grpo import GRPO
from llmgym.algorithms.gspo import GSPO
from llmgym.algorithms.ilql import ILQL
from llmgym.algorithms.ppo import PPO
from llmgym.algorithms.registry import ALGORITHMS, algorithm_class, algorithm_name, register_algorithm
from llmgym.algorithms.reinforce_pp import ReinforcePP
from llmgym.algorithms.rejection import RejectionSampling
from llmgym.algorithms.returns import ReturnSettings, episode_returns, returns_to_go
from llmgym.algorithms.rloo import RLOO
from llmgym.algorithms.units import Credit, Estimates, Outputs, Reads, Targets, Transitions

__all__ = [
    "A2C",
    "ALGORITHMS",
    "DAPO",
    "GRPO",
    "GSPO",
    "ILQL",
    "PPO",
    "RLOO",
    "Algorithm",
    "BehaviourCloning",
    "Credit",
    "DrGRPO",
    "Estimates",
    "EstimatesAdvantages",
    "GiGPO",
    "Outputs",
    "Reads",
    "ReadsText",
    "ReinforcePP",
    "RejectionSampling",
    "ReturnSettings",
    "StopsEarly",
    "Targets",
    "Transitions",
    "advantages_and_returns",
    "algorithm_class",
    "algorithm_name",
    "episode_returns",
    "estimate_with_critic",
    "register_algorithm",
    "returns_to_go",
    "trajectory_advantages",
]
