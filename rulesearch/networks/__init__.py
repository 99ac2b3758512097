"""Networks with feedback pathways; convolutional ones; gain and threshold; spikes."""

from rulesearch.networks.convolutional import ConvNet
from rulesearch.networks.learnt_feedback import LearntFeedback
from rulesearch.networks.modulated import ModulatedNetwork
from rulesearch.networks.network import PlasticNetwork
from rulesearch.networks.spiking import SpikingNetwork
from rulesearch.networks.state import NetworkState

__all__ = [
    "ConvNet",
    "LearntFeedback",
    "ModulatedNetwork",
    "NetworkState",
    "PlasticNetwork",
    "SpikingNetwork",
]
