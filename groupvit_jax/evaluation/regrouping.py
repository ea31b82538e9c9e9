"""Groups remade at inference: k-means of the token embeddings.

The tokens of a trained GroupViT may know more than its assignment tells
(docs/research/emergence.md): then clusters of them make better regions.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from groupvit_jax.embeddings import unit_norm
from groupvit_jax.evaluation.config import SegmentConfig
from groupvit_jax.evaluation.regions import Regions

_EXACT = jax.lax.Precision.HIGHEST


def regions_fn(
  predict_fns: Mapping[str, Callable[..., Any]], tokens: bool
) -> Callable[..., Any]:
  """The function that encodes regions, with their tokens if these are needed.

  Args:
    predict_fns: 'regions', and 'regions_and_tokens' if the model has it.
    tokens: whether something reads `Regions.tokens`.
  """
  plain = predict_fns['regions']
  return predict_fns.get('regions_and_tokens', plain) if tokens else plain


def apply(regions: Regions, config: SegmentConfig) -> Regions:
  """The regions that a config asks for: `regions` themselves, or new ones.

  Args:
    regions: with tokens, if the config regroups.
    config: reads regroup, regroup_number and regroup_rounds.

  Returns:
    Regions whose last stage are the new groups; `stages` keeps the learned
    ones before them. Without tokens, which have done their work.

  Raises:
    ValueError: the regions were encoded without tokens.
  """
  if config.regroup == 'none':
    return regions
  if regions.tokens is None:
    raise ValueError(
      'These regions have no token embeddings, and cannot be regrouped: encode '
      'the image again with a config whose regroup is set. Only a model that '
      'groups can regroup.'
    )
  number = config.regroup_number or regions.embeddings.shape[2]
  return _regroup(regions, number, config.regroup_rounds)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _regroup(regions, number, rounds):
  maps, real = _token_maps(regions)
  tokens = regions.tokens
  clusters = kmeans(
    tokens.reshape(-1, *tokens.shape[2:]),
    real.reshape(-1, tokens.shape[2]),
    number,
    rounds,
  )
  member = jax.nn.one_hot(clusters, number).reshape(*tokens.shape[:3], number)
  counted = jnp.where(real[..., None], member, 0)
  total = jnp.einsum('bnmg,bnme->bnge', counted, tokens, precision=_EXACT)
  if maps is None:
    new = member.reshape(*regions.stages[-1].shape[:4], number)
  else:
    new = jnp.einsum('bnhwm,bnmg->bnhwg', maps, member)
  return regions._replace(
    embeddings=unit_norm(total),
    stages=(*regions.stages, new),
    background=None,
    tokens=None,
  )


def of_tokens(regions: Regions) -> Regions:
  """The same images with every token as a region of its own."""
  maps, _ = _token_maps(regions)
  if maps is None:
    grid = regions.stages[-1].shape[:4]
    count = regions.tokens.shape[2]
    maps = jnp.eye(count).reshape(1, 1, *grid[2:], count)
    maps = jnp.broadcast_to(maps, (*grid, count))
  return regions._replace(
    embeddings=regions.tokens, stages=(maps,), background=None, tokens=None
  )


def _token_maps(regions):
  """The tokens of the last stage: their maps, and which of them are real.

  Of a single stage they lie on the token grid, so that no maps are needed, and
  padding is not real. Of more they are groups of the stage before, of which
  those that are nowhere the strongest do not count.
  """
  if len(regions.stages) == 1:
    b, n, h, w, _ = regions.stages[0].shape
    rows, columns = (
      jnp.arange(side) < regions.grids[..., i, None]
      for i, side in enumerate((h, w))
    )
    real = rows[..., :, None] & columns[..., None, :]
    return None, real.reshape(b, n, h * w)
  maps = regions.stages[-2]
  best = jnp.where(maps.any(-1), maps.argmax(-1), -1)  # padding is zero
  best = best.reshape(*best.shape[:2], -1)
  return maps, jax.nn.one_hot(best, maps.shape[-1], dtype=bool).any(2)


@functools.partial(jax.jit, static_argnums=(2, 3))
def kmeans(
  points: Float[Array, 'b m e'],
  real: Bool[Array, 'b m'],
  number: int,
  rounds: int = 5,
) -> Int[Array, 'b m']:
  """Spherical k-means from farthest points; deterministic.

  The first centre is the point nearest to the mean, each other one the point
  that is farthest from all before it (Gonzalez 1985). Then rounds of Lloyd's
  algorithm by cosine.

  Args:
    points: unit vectors.
    real: False for points that no centre may come from; they get the nearest.
    number: centres; of fewer different points some get none.
    rounds: of Lloyd's algorithm.

  Returns:
    The cluster of each point.
  """

  def cosines(points, centres):
    return jnp.einsum('me,ge->mg', points, centres, precision=_EXACT)

  def clusters(points, real):
    mean = unit_norm(jnp.where(real[:, None], points, 0).sum(0))
    first = jnp.where(real, cosines(points, mean[None])[:, 0], -jnp.inf)

    def add(carry, _):
      near, index = carry
      centre = points[index]
      near = jnp.maximum(near, cosines(points, centre[None])[:, 0])
      return (near, near.argmin()), centre

    near = jnp.where(real, -jnp.inf, jnp.inf)
    start = near, first.argmax()
    _, centres = jax.lax.scan(add, start, length=number)

    def move(_, centres):
      member = jax.nn.one_hot(cosines(points, centres).argmax(1), number)
      member = jnp.where(real[:, None], member, 0)
      total = jnp.einsum('mg,me->ge', member, points, precision=_EXACT)
      return jnp.where(member.any(0)[:, None], unit_norm(total), centres)

    centres = jax.lax.fori_loop(0, rounds, move, centres)
    return cosines(points, centres).argmax(1)

  return jax.vmap(clusters)(points, real)
