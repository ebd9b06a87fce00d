"""The command line: parses, prints, and calls llmgym.run. Nothing else prints."""
