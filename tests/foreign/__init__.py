"""What agentguard makes, verified by code of others."""
