"""All peers by name, in the order of the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rulesearch.bench.consolidation import Consolidation
from rulesearch.bench.episode import Episode
from rulesearch.bench.peers import consolidations, episodes, own
from rulesearch.bench.peers.base import Answer, Peer
from rulesearch.bench.peers.jax_factored import factored
from rulesearch.bench.peers.jax_formulas import written_out
from rulesearch.bench.peers.jax_lives import jax_lives
from rulesearch.bench.peers.plain import checkpointed, plain
from rulesearch.bench.peers.vmapped import vmapped
from rulesearch.bench.problem import Problem
from rulesearch.errors import ConfigError, did_you_mean

__all__ = ["EXACT", "OURS", "PEERS", "find_peers"]

OURS = "rulesearch"
PEERS = {
    peer.name: peer
    for peer in (
        Peer("plain", "formulas as in the paper, torch autograd",
             {Problem: plain, Episode: episodes.plain, Consolidation: consolidations.plain}),
        Peer("truncated", "plain, through the last steps alone",
             {Consolidation: consolidations.truncated}),
        Peer("learning", "steps of learning, and no gradient in theta",
             {Consolidation: consolidations.learning}),
        Peer("hoisted", "the same, layers that do not learn run once on all examples",
             {Episode: episodes.hoisted}),
        Peer("checkpointed", "plain with torch's activation checkpointing",
             {Problem: checkpointed, Episode: episodes.checkpointed}, 0.5),
        Peer("vmap", "plain with torch.func's grad and vmap", {Problem: vmapped}),
        Peer("jax", "formulas as in the paper; jit, scan, vmap",
             {Problem: jax_lives(written_out, "all", True)}, needs="jax"),
        Peer("jax-checkpointed", "the same, each step under jax.checkpoint",
             {Problem: jax_lives(written_out, "steps", True)}, needs="jax"),
        Peer("jax-factored", "factored by hand; jit, scan, vmap",
             {Problem: jax_lives(factored, "all", True)}, needs="jax"),
        Peer("jax-factored-checkpointed", "the same, each step under jax.checkpoint",
             {Problem: jax_lives(factored, "steps", True)}, needs="jax"),
        Peer("jax-factored-segments", "the same, segments of sqrt(steps) under jax.checkpoint",
             {Problem: jax_lives(factored, "segments", True)}, 0.5, needs="jax"),
        Peer("jax-factored-map", "factored by hand, a lifetime at a time; jit, scan, map",
             {Problem: jax_lives(factored, "all", False)}, needs="jax"),
        Peer("jax-factored-map-segments", "the same, segments under jax.checkpoint",
             {Problem: jax_lives(factored, "segments", False)}, 0.5, needs="jax"),
        Peer("rulesearch-torch", "this library, run eagerly in torch", {Problem: own.eager}),
        Peer(OURS, "this library",
             {Problem: own.fused, Episode: episodes.own, Consolidation: consolidations.own},
             ours=True),
    )
}  # fmt: skip
EXACT: dict[type, Callable[[Any], Answer]] = {
    Problem: own.exact,
    Episode: episodes.exact,
    Consolidation: consolidations.exact,
}
"""Loss and gradient in float64, by this library."""


def find_peers(names: Iterable[str] | None = None) -> list[Peer]:
    """Return the peers of these names, or all, in the order of the tables.

    Raises
    ------
    ConfigError
        For a name that no peer has.
    """
    wanted = list(PEERS) if names is None else list(names)
    for name in wanted:
        if name not in PEERS:
            hint = did_you_mean(name, PEERS) or f"; there are {', '.join(PEERS)}"
            raise ConfigError(f"no peer is called '{name}'{hint}")
    return [peer for peer in PEERS.values() if peer.name in wanted]
