"""The training loop: state, loss, optimizer, checkpoints, inputs, report.

- `loop.train_and_evaluate`: a whole run from a config and a workdir.
- `config.from_arg`, `config.check`: config arguments; ConfigDict stops here.
- `task.make`: model and loss that a config names.
- `state.make_train_step`: the compiled step.
- `checkpoint.Checkpoints`, `workdir`: files of a run.
- `collapse.CollapseMonitor`, `report.Report`, `replay.replay`: reading a run.
"""
