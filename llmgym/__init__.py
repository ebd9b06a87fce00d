"""llmgym."""
