"""Contextual bandits: agents that learn rewards from what they chose, online."""

from rulesearch.outer.bandit.greedy import ChosenArm, GreedyAgent, RewardNetwork
from rulesearch.outer.bandit.neural_linear import Heads, NeuralLinearAgent, Statistics
from rulesearch.outer.bandit.online import Agent, Life, blocks, live
from rulesearch.outer.bandit.trained import TrainedLife

__all__ = [
    "Agent",
    "ChosenArm",
    "GreedyAgent",
    "Heads",
    "Life",
    "NeuralLinearAgent",
    "RewardNetwork",
    "Statistics",
    "TrainedLife",
    "blocks",
    "live",
]
