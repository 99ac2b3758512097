"""The reversible meta-gradient in torch: what the compiled engine does, without a compiler."""

from rulesearch.learners.eager.segments import in_step, live_backward, live_forward

__all__ = ["in_step", "live_backward", "live_forward"]
