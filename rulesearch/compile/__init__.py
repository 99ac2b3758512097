"""From terms to one low-rank update, as torch source and as a tape for compiled code."""
