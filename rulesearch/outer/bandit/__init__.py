"""Contextual bandits: agents that learn rewards from what they chose, online."""

from rulesearch.outer.bandit.greedy import ChosenArm, GreedyAgent, RewardNetwork
from rulesearch.outer.bandit.neural_linear import Heads, NeuralLinearAgent, fit_heads
from rulesearch.outer.bandit.online import Agent, live

__all__ = [
    "Agent",
    "ChosenArm",
    "GreedyAgent",
    "Heads",
    "NeuralLinearAgent",
    "RewardNetwork",
    "fit_heads",
    "live",
]
