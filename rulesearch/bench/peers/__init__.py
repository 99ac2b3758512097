"""The peers: ways to differentiate through the same lifetimes, each as its user would write it."""

from rulesearch.bench.peers.base import Peer, Prepared
from rulesearch.bench.peers.registry import PEERS, find_peers

__all__ = ["PEERS", "Peer", "Prepared", "find_peers"]
