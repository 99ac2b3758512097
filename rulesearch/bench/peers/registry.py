"""All peers by name, in the order of the tables."""

from __future__ import annotations

from collections.abc import Iterable

from rulesearch.bench.peers import own
from rulesearch.bench.peers.base import Peer
from rulesearch.bench.peers.jax_factored import factored
from rulesearch.bench.peers.jax_formulas import written_out
from rulesearch.bench.peers.jax_lives import jax_lives
from rulesearch.bench.peers.plain import checkpointed, plain
from rulesearch.bench.peers.vmapped import vmapped
from rulesearch.errors import ConfigError, did_you_mean

__all__ = ["OURS", "PEERS", "find_peers"]

OURS = "rulesearch"
PEERS = {
    peer.name: peer
    for peer in (
        Peer("plain", "formulas as in the paper, torch autograd", plain),
        Peer("checkpointed", "the same with torch's activation checkpointing", checkpointed, 0.5),
        Peer("vmap", "the same with torch.func's grad and vmap", vmapped),
        Peer("jax", "formulas as in the paper; jit, scan, vmap",
             jax_lives(written_out, "all", True), needs="jax"),
        Peer("jax-checkpointed", "the same, each step under jax.checkpoint",
             jax_lives(written_out, "steps", True), needs="jax"),
        Peer("jax-factored", "factored by hand; jit, scan, vmap",
             jax_lives(factored, "all", True), needs="jax"),
        Peer("jax-factored-checkpointed", "the same, each step under jax.checkpoint",
             jax_lives(factored, "steps", True), needs="jax"),
        Peer("jax-factored-segments", "the same, segments of sqrt(steps) under jax.checkpoint",
             jax_lives(factored, "segments", True), 0.5, needs="jax"),
        Peer("jax-factored-map", "factored by hand, a lifetime at a time; jit, scan, map",
             jax_lives(factored, "all", False), needs="jax"),
        Peer("jax-factored-map-segments", "the same, segments under jax.checkpoint",
             jax_lives(factored, "segments", False), 0.5, needs="jax"),
        Peer("rulesearch-torch", "this library, run eagerly in torch", own.eager),
        Peer(OURS, "this library", own.fused, ours=True),
    )
}  # fmt: skip


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
