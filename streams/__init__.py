"""The running system: topologies, the runtime that carries them, adapters to Kafka and Redis, and the command line."""
