"""Zero-shot retrieval: the image of a caption, and the captions of an image.

Recall at 1, 5 and 10 in both directions, as CLIP reports for Flickr30k and COCO
(Radford et al. 2021, table 13).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from groupvit_jax import sharding
from groupvit_jax.evaluation import classification, scoring, zero_shot
from groupvit_jax.evaluation import evaluator as evaluator_lib
from groupvit_jax.evaluation.resume import ResumeState

_ROWS = 256  # of the table of similarities, at a time


class RetrievalEvaluator:
  """Recall at k over a set of images with several captions each.

  Compiled once per predict function and batch shape.

  Attributes:
    resume_state: of the last or present pass; None before the first.
  """

  def __init__(
    self,
    batches_fn: classification.BatchesFn,
    captions: Sequence[Sequence[str]],
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    *,
    template: str = '{}',
    top_k: Sequence[int] = (1, 5, 10),
    mesh: Mesh | None = None,
    open_state: Callable[[Any], ResumeState] = lambda _: ResumeState(),
  ):
    """Prepares the captions.

    Args:
      batches_fn: starts one pass, but for the places that it is given: dicts
        of image (uint8 b h w 3), label (the image's place in `captions`,
        integers b) and mask (b, 0 for padding; optional). Images that never
        come are left out, with their captions.
      captions: those of each image, at least one.
      tokenizer: texts -> int32 [n, l].
      template: what captions are put into (CLIP: 'a photo of {}').
      top_k: each k is reported both ways.
      mesh: splits the batches over its axis 'data'.
      open_state: opens the resume state that belongs to the variables.

    Raises:
      ValueError: an image without captions.
    """
    self.resume_state: ResumeState | None = None
    self._open_state = open_state
    bare = next((i for i, texts in enumerate(captions) if not texts), None)
    if bare is not None:
      raise ValueError(f'Picture {bare} has no captions; leave it out.')
    self._batches_fn = batches_fn
    self._count = len(captions)
    # The image of each caption.
    self._owner = np.repeat(np.arange(len(captions)), list(map(len, captions)))
    self._tokens = zero_shot.tokenize_texts(
      tokenizer, [text for texts in captions for text in texts], template
    )
    self._top_k = tuple(top_k)
    self._mesh = mesh
    whole = None if mesh is None else sharding.replicated(mesh)
    self._encode = jax.jit(
      _encode_images, static_argnums=0, out_shardings=whole
    )

  def run(
    self, predict_fns: evaluator_lib.PredictFns, variables: Any
  ) -> Iterator[tuple[str, float]]:
    """Evaluates and yields recalls, then what they were measured on.

    Args:
      predict_fns: 'image' and 'text'.
      variables: their first argument.

    Yields:
      ('image_to_text_r<k>', share of the images with a caption of theirs
      among the k nearest captions), ('text_to_image_r<k>', share of the
      captions with their image among the k nearest images), ('images', n)
      and ('captions', n).

    Raises:
      ValueError: for a label out of range or a set without examples.
      errors.WorkdirError: the resume state is of another evaluation.
    """
    images, places = self._embed_images(predict_fns['image'], variables)
    kept = np.flatnonzero(np.isin(self._owner, places))
    texts = zero_shot.embed_tokens(
      predict_fns['text'], variables, self._tokens[kept]
    )
    # The row of `images` that each caption belongs to.
    row = np.full(self._count, -1)
    row[places] = np.arange(len(places))
    owner = row[self._owner[kept]].astype(np.int32)
    rows = np.arange(len(places), dtype=np.int32)
    images, texts = (images, rows), (texts, owner)
    for name, queries, candidates in (
      ('image_to_text', images, texts),
      ('text_to_image', texts, images),
    ):
      most = min(max(self._top_k), len(candidates[1]))
      first = np.asarray(_first_hits(*queries, *candidates, most))
      for k in self._top_k:
        yield f'{name}_r{k}', float((first < min(k, most)).mean())
    yield 'images', float(len(places))
    yield 'captions', float(len(kept))

  def _embed_images(
    self, image_fn: Callable[..., Any], variables: Any
  ) -> tuple[Float[np.ndarray, 'n e'], Int[np.ndarray, 'n']]:
    """Embeddings of all images, and which they are; each image once."""
    self.resume_state = self._open_state(variables)

    def measure(batch):
      label = np.asarray(batch['label'])
      real = np.asarray(batch.get('mask', np.ones(len(label)))).astype(bool)
      self._check(label[real])
      fields = {
        'image': batch['image'],
        'label': np.where(real, label, -1).astype(np.int32),
      }
      vectors, places = self._encode(
        image_fn, variables, evaluator_lib.place(fields, self._mesh)
      )
      return classification.BatchOutput(places, {}, vectors)

    batches = self._batches_fn(self.resume_state.done)
    classification.run(batches, measure, self.resume_state)
    rows = self.resume_state.rows
    places = np.array(sorted(rows))
    return np.stack([rows[place] for place in places.tolist()]), places

  def _check(self, label: np.ndarray) -> None:
    if label.size and not (label.min() >= 0 and label.max() < self._count):
      raise ValueError(
        f'Labels run from {label.min()} to {label.max()}, but there are '
        f'captions of {self._count} images. Check that they belong to this '
        'data.'
      )


def _encode_images(
  image_fn: Callable[..., Any], variables: Any, batch: Any
) -> tuple[Array, Array]:
  return image_fn(variables, batch['image']), batch['label']


@functools.partial(jax.jit, static_argnames='most')
def _first_hits(
  queries: Float[Array, 'n e'],
  query_owner: Int[Array, 'n'],
  candidates: Float[Array, 'm e'],
  candidate_owner: Int[Array, 'm'],
  most: int,
) -> Int[Array, 'n']:
  """The rank, from 0, of the first candidate with the query's owner.

  Ties go to the lower index, so that constant embeddings are no success.

  Args:
    queries: unit vectors.
    query_owner: the image of each query.
    candidates: unit vectors.
    candidate_owner: the image of each candidate.
    most: candidates looked at.

  Returns:
    Ranks; `most` where none of the nearest has the owner.
  """

  def of_row(row):
    query, owner = row
    _, best = jax.lax.top_k(scoring.similarity(query, candidates), most)
    right = candidate_owner[best] == owner
    return jnp.where(right.any(), right.argmax(), most)

  return jax.lax.map(of_row, (queries, query_owner), batch_size=_ROWS)
