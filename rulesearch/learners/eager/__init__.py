"""The reversible meta-gradient in torch: what the compiled engine does, without a compiler."""

from rulesearch.learners.eager.segments import live_backward, live_forward

__all__ = ["live_backward", "live_forward"]
