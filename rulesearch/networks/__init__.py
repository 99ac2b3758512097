"""Networks with feedback pathways."""

from rulesearch.networks.network import NetworkState, PlasticNetwork

__all__ = ["NetworkState", "PlasticNetwork"]
