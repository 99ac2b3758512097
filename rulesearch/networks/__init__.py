"""Networks with feedback pathways."""

from rulesearch.networks.learnt_feedback import LearntFeedback
from rulesearch.networks.network import PlasticNetwork
from rulesearch.networks.state import NetworkState

__all__ = ["LearntFeedback", "NetworkState", "PlasticNetwork"]
