"""The stages as pure functions of (state, batch, now): bytes in, bytes out, no I/O."""
