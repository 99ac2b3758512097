"""The benchmark suite: this engine beside what one would write instead, and beside the floor."""
