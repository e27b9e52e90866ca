"""What carries a topology: ordering, the door, recovery, checkpoints, and the loop over Kafka."""
