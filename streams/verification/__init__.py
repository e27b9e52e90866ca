"""What was served, checked against the log alone: the rules read again in the plainest way, and none of the stages."""
