"""The state of training, how it begins, and the jit-compiled step on it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics
from flax import struct

from groupvit_jax import sharding
from groupvit_jax.data import on_device
from groupvit_jax.training import accumulate, gradients, optimizer, texts
from groupvit_jax.training import config as config_lib
from groupvit_jax.training import task as task_lib


@struct.dataclass
class TrainState:
  """Everything that a step changes; what a checkpoint holds.

  Attributes:
    step: int32 scalar, updates done.
    params: model parameters, float32.
    batch_stats: running statistics of the batch norms.
    opt_state: optimizer state.
    rng: the run's PRNG key; a step folds its number into it.
  """

  # Any: JAX rebuilds pytrees with placeholders that are not arrays.
  step: Any
  params: Any
  batch_stats: Any
  opt_state: Any
  rng: Any

  @property
  def variables(self) -> dict[str, Any]:
    """As Flax takes them."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


def make_optimizer(
  config: config_lib.Config,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Returns the optimizer and its schedule.

  Learning rates are stated for `reference_batch_size` and follow the batch
  linearly (NVlabs/GroupViT main_group_vit.py: 1.6e-3 for 4,096).
  """
  o = config.optimizer
  scale = config.batch_size / o.reference_batch_size
  schedule = optimizer.make_schedule(
    base_lr=o.learning_rate * scale,
    # A run cut short (`:demo,steps=20`) still warms up, and still trains.
    warmup_steps=min(o.warmup_steps, config.num_steps // 2),
    total_steps=config.num_steps,
    warmup_init=o.warmup_init * scale,
    end_lr=o.end_learning_rate * scale,
  )
  tx = optimizer.make_optimizer(
    schedule,
    name=o.name,
    betas=(o.b1, o.b2),
    eps=o.eps,
    weight_decay=o.weight_decay,
    clip_norm=o.clip_norm or None,
    decay_scalars=o.get('decay_scalars', True),
  )
  return tx, schedule


def create_state(
  task: task_lib.Task,
  tx: optax.GradientTransformation,
  config: config_lib.Config,
  mesh: jax.sharding.Mesh,
) -> TrainState:
  """Initialises the state from `config.seed`, placed on the mesh."""

  def init():
    init_rng, rng = jax.random.split(jax.random.key(config.seed))
    example = jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), abstract_batch(config, 1)
    )
    variables = task.init(init_rng, example)
    return TrainState(
      step=jnp.int32(0),
      params=variables['params'],
      batch_stats=variables['batch_stats'],
      opt_state=tx.init(variables['params']),
      rng=rng,
    )

  placement = sharding.state_sharding(jax.eval_shape(init), mesh)
  return jax.jit(init, out_shardings=placement)()


def abstract_batch(
  config: config_lib.Config, batch_size: int
) -> dict[str, Any]:
  """Returns the shapes of a training batch: images, and texts per image."""
  size, texts = config.image_size, 1 + config.loss.get('num_nouns', 0)
  shape = jax.ShapeDtypeStruct
  return {
    'image': shape((batch_size, size, size, 3), jnp.uint8),
    'tokens': shape((batch_size, texts, config.text.context_length), jnp.int32),
  }


def number_of_groups(
  task: task_lib.Task, state: Any, config: config_lib.Config
) -> int:
  """Returns how many groups the last stage makes; 0 for a task without."""
  images = abstract_batch(config, 1)['image']
  predict = task.predict_fns['regions']
  stages = jax.eval_shape(predict, state.variables, images)['stages']
  return stages[-1].shape[-1] if stages else 0


def make_train_metrics(
  task: task_lib.Task, state: TrainState, config: config_lib.Config
) -> type[clu_metrics.Collection]:
  """Returns the collection of what a run logs of its steps.

  It averages every scalar over the steps that were not skipped.
  """
  batch = abstract_batch(config, config.batch_size)
  _, (_, values) = jax.eval_shape(
    task.loss_fn, state.variables, batch, state.rng
  )
  names = [*values, 'grad_norm']
  return clu_metrics.Collection.create(
    skipped=gradients.Skipped,
    largest=gradients.Largest,
    **{name: clu_metrics.Average.from_output(name) for name in names},
  )


def used_rows(
  state: TrainState, config: config_lib.Config
) -> np.ndarray | None:
  """Rows of the vocabulary that have been trained: `texts.Texts.used`."""
  o = config.optimizer
  if jax.process_count() > 1:  # each one sees its own texts only
    return None
  if o.name != 'muon' and o.weight_decay:  # then every row is decayed
    return None
  return texts.used_rows(state.params, state.opt_state)


def make_train_step(
  task: task_lib.Task,
  tx: optax.GradientTransformation,
  metrics_class: type[clu_metrics.Collection],
  mesh: jax.sharding.Mesh,
  placement: Any = None,
  accumulated: int = 1,
) -> Callable[..., tuple[TrainState, Any]]:
  """Returns `(state, metrics, batch) -> (state, metrics)`, jit-compiled.

  A step whose loss or gradient is not finite changes nothing but its number,
  and is counted (see `gradients`).

  State and metrics are donated: a step needs one copy of them, not two. Their
  placement is stated, or the second call would compile anew for the first's
  results: `placement`, a tree of shardings, is the state's, by default whole on
  every device. Above 1, `accumulated` is the number of parts that a batch is
  encoded in (see `accumulate`). A batch may have what `texts.Texts` adds to it,
  and what `on_device.augmented` reads.
  """
  whole = sharding.replicated(mesh)
  platform = mesh.devices.flat[0].platform
  # Else XLA on CPUs keeps attention weights twice, rounded and not.
  exact = {'xla_allow_excess_precision': False} if platform == 'cpu' else None

  @functools.partial(
    jax.jit,
    donate_argnums=(0, 1),
    out_shardings=(placement or whole, whole),
    compiler_options=exact,
  )
  @sharding.traced_for(platform, mesh)
  def train_step(state, metrics, batch):
    rng = jax.random.fold_in(state.rng, state.step)
    batch = on_device.augmented(batch, mesh)
    trained = state.params, state.opt_state
    rows = batch.get('rows')
    params, opt_state = before = trained
    if rows is not None:  # the others of the vocabulary stay as they are
      before = texts.map_table(lambda x: x[rows], trained)
      params, opt_state = before
      # Sorted rows keep the end token the highest id.
      among = functools.partial(jnp.searchsorted, rows)
      batch = {**batch, **jax.tree.map(among, texts.encoded(batch))}

    def variables(params):
      if sharding.FSDP in mesh.shape:  # gathered once
        params = jax.lax.with_sharding_constraint(params, whole)
      return state.variables | {'params': params}

    def loss_fn(params):
      return task.loss_fn(variables(params), batch, rng)

    if accumulated > 1:
      grads, (batch_stats, values) = accumulate.gradients(
        task.parts, (variables(params), batch, rng), accumulated, mesh
      )
    else:
      grads, (batch_stats, values) = jax.grad(loss_fn, has_aux=True)(params)
    grads = sharding.split(grads, mesh)
    norm = optax.global_norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(values['loss'])

    def updated():
      updates, new = tx.update(grads, opt_state, params)
      return optax.apply_updates(params, updates), new, batch_stats

    params, opt_state, batch_stats = gradients.if_finite(
      finite, updated, (*before, state.batch_stats), mesh
    )
    if rows is not None:
      params, opt_state = texts.map_table(
        lambda new, old: old.at[rows].set(new, unique_indices=True),
        (params, opt_state),
        trained,
      )
    state = state.replace(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    averaged = {**values, 'grad_norm': norm}
    update = metrics_class.single_from_model_output(
      # clu masks arrays, not scalars.
      **{name: value[None] for name, value in averaged.items()},
      mask=finite[None],
      norm=norm,
      finite=finite,
      step=state.step,
    )
    return state, metrics.merge(update)

  return train_step


@jax.jit
def is_finite(state: Any) -> jax.Array:
  """Whether all floating numbers of a state are finite."""
  floats = [
    x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in floats]))
