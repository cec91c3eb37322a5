"""What a backend promises: one small `Protocol` a capability, each method one atomic operation."""
