"""The training loop: state, loss, optimizer, checkpoints, inputs, report."""
