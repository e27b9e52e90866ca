"""Models: what they are, how they learn, how they are judged. Imports features and schemas only."""
