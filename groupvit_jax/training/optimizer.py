"""The released optimisation: AdamW, its schedule, decay mask and clipping.

Follows NVlabs/GroupViT (utils/optimizer.py, utils/lr_scheduler.py,
main_group_vit.py) to the step, since small batches are sensitive to it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

NAMES = ('adamw', 'muon')


def make_schedule(
  base_lr: float,
  warmup_steps: int,
  total_steps: int,
  warmup_init: float = 4e-6,
  end_lr: float = 4e-5,
) -> optax.Schedule:
  """Linear warm-up, then a cosine that has been running since step 0.

  timm's CosineLRScheduler with warmup_prefix=False: the cosine is counted
  from step 0 and not from the end of the warm-up, so the rate first reached
  after it is a little below `base_lr` (1.583e-3 of 1.6e-3 as released). The
  original steps its scheduler after the update, so updates 0 and 1 both use
  the rate of step 0, and update u that of step u - 1.

  Args:
    base_lr: Height of the warm-up and of the cosine at step 0.
    warmup_steps: Length of the linear warm-up; 0: none.
    total_steps: Length of the cosine, warm-up included.
    warmup_init: Rate at step 0.
    end_lr: Rate that the cosine ends in, and stays at.

  Returns:
    Function from the number of updates already made to the learning rate.
  """

  def schedule(update: ArrayLike) -> Array:
    step = jnp.maximum(jnp.asarray(update) - 1, 0)
    step = jnp.minimum(step, total_steps).astype(jnp.float32)
    slope = (base_lr - warmup_init) / max(warmup_steps, 1)
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * step / total_steps))
    return jnp.where(
      step < warmup_steps,
      warmup_init + slope * step,
      end_lr + (base_lr - end_lr) * cosine,
    )

  return schedule


def decay_mask(params: Any, scalars: bool = True) -> Any:
  """Which parameters weight decay acts on: all but 1-D ones and biases.

  As released, so position embeddings, group tokens, token embeddings and the
  0-D logit scales are decayed; norm scales and biases are not.

  Args:
    params: Tree of parameters.
    scalars: Whether 0-D parameters are decayed; CLIP's are not.

  Returns:
    Tree of bool of the same structure.
  """

  def decays(path, value):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    kept = jnp.ndim(value) == 1 or not (scalars or jnp.ndim(value))
    return not kept and name != 'bias'

  return jax.tree_util.tree_map_with_path(decays, params)


def matrices(params: Any) -> Any:
  """Muon's share of the parameters: the kernels of linear layers.

  Token embeddings, positions and group tokens are tables whose rows are used
  one by one; these, and all vectors, stay with AdamW.

  Returns:
    Tree of the same structure: dimension numbers of a kernel, else None.
  """

  def share(path, value):
    name = jax.tree_util.keystr(path[-1:], simple=True)
    kernel = name == 'kernel' and jnp.ndim(value) == 2
    return optax.contrib.MuonDimensionNumbers() if kernel else None

  return jax.tree_util.tree_map_with_path(share, params)


def make_optimizer(
  learning_rate: optax.ScalarOrSchedule,
  *,
  name: str = 'adamw',
  betas: tuple[float, float] = (0.9, 0.999),
  eps: float = 1e-8,
  weight_decay: float = 0.05,
  clip_norm: float | None = 5.0,
  decay_scalars: bool = True,
) -> optax.GradientTransformation:
  """AdamW after clipping by the global norm; the defaults are the released.

  Args:
    learning_rate: Schedule (see `make_schedule`) or a constant.
    name: 'adamw', or 'muon': steps of the kernels are orthogonalised (Jordan
      et al. 2024, kellerjordan.github.io/posts/muon) and scaled to the size
      of AdamW's (Liu et al. 2025, arXiv 2502.16982), so that rates carry over;
      fewer steps to the same loss where a model is small and a step is cheap.
      Only kernels are decayed then; all else follows AdamW with Nesterov's
      momentum.
    betas: Decays of the first and the second moment.
    eps: Added to the root of the second moment.
    weight_decay: Decoupled, multiplied by the learning rate as in PyTorch.
    clip_norm: Largest global norm of the gradient; None: no clipping.
    decay_scalars: See `decay_mask`.

  Returns:
    The gradient transformation.

  Raises:
    ValueError: unknown name.
  """
  if name not in NAMES:
    raise ValueError(f'unknown optimizer {name!r}; choose one of {NAMES}')
  if name == 'muon':
    rule = optax.contrib.muon(
      learning_rate,
      adam_b1=betas[0],
      adam_b2=betas[1],
      eps=eps,
      weight_decay=weight_decay,
      muon_weight_dimension_numbers=matrices,
      consistent_rms=0.2,
    )
  else:
    rule = optax.adamw(
      learning_rate,
      *betas,
      eps=eps,
      weight_decay=weight_decay,
      mask=functools.partial(decay_mask, scalars=decay_scalars),
    )
  if clip_norm is None:
    return rule
  return optax.chain(_clip(clip_norm), rule)


def _clip(largest: float) -> optax.GradientTransformation:
  """`optax.clip_by_global_norm`, by one factor.

  XLA on CPUs fuses that into the update; optax's quotients it writes out first.
  """

  def clip(updates: Any, params: Any = None) -> Any:
    del params
    factor = jnp.minimum(1, largest / optax.global_norm(updates))
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

  return optax.stateless(clip)
