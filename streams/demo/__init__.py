"""The demo: a simulated shop streamed through the embedded system, shown live beside its own truth."""
