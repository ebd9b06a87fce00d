"""Drop-in replacements: what other projects' scripts import, answered by llmgym."""
