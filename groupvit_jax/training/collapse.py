"""Names the ways in which grouping fails, while a run goes on.

Thresholds on the statistics that `losses/assignment.py` and the evaluation
log, what each failure means for the masks, and which options help.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Each as (begins at, is over at): between the two a diagnosis stays what it
# was, so that a value near its limit does not make a message of every row.
# How far below log g the entropy is, as a share of it, at a noise of 1. The
# noisy winner is drawn from softmax(logits / noise); small logits of standard
# deviation s lower that entropy by (s / noise)^2 / 2, hence noise^2.
PREFERENCE = (0.05, 0.1)
LARGEST_SHARE = (0.95, 0.9)
GROUPS_PER_IMAGE = (1.2, 1.3)  # two groups of 95 and 5 % count as 1.2

# The values of all options by dotted path.
Options = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Kind:
  """A way to fail.

  Attributes:
    name: what it is called in the log, the summary and the report.
    meaning: what it does to the masks.
    remedies: each tells, of the options in force, which to change and how;
      empty text if that is done already.
  """

  name: str
  meaning: str
  remedies: tuple[Callable[[Options], str], ...]


def _above(path: str) -> Callable[[Options], str]:
  return lambda o: f'{path} above {o[path]:g}' if path in o else ''


def _below(path: str) -> Callable[[Options], str]:
  return lambda o: f'{path} below {o[path]:g}' if o.get(path) else ''


def _set(path: str, value: Any) -> Callable[[Options], str]:
  return lambda o: f'{path}={value}' if o.get(path, value) != value else ''


def _larger_init(o: Options) -> str:
  path, wanted = 'model.init_std', o.get('model.width', math.inf) ** -0.5
  # Rounded as it is printed, or the advice would outlast its being followed.
  return f'{path}={wanted:.2g}' if o.get(path, 1.0) < 0.95 * wanted else ''


def _less_noise(o: Options) -> str:
  hard = o.get('model.assignment') == 'hard'  # 'soft' has no noise
  return _below('model.gumbel_noise')(o) if hard else ''


def _match_nouns(o: Options) -> str:
  change = _set('loss.noun_match', 'best_group')(o)
  return change if o.get('loss.num_nouns') else ''


UNDECIDED = Kind(
  'undecided',
  'patches hardly prefer one group to another, so every group becomes a '
  'mixture of the whole image',
  (_larger_init, _less_noise, _above('loss.sharpness_weight')),
)
ONE_GROUP = Kind(
  'one group takes everything',
  'nearly all patches of all images join the same group, so an image is one '
  'mask with one label',
  (
    _above('loss.balance_weight'),
    _set('model.group_residual', False),
    _larger_init,
    _less_noise,
    _below('optimizer.learning_rate'),
  ),
)
ONE_PER_IMAGE = Kind(
  'one group per image',
  'groups sort whole images instead of their parts, so an image is one mask '
  'with one label; loss.balance_weight does not see it, as it asks for balance '
  'over the batch only',
  (
    # The demo with 0.3 instead of 0.03 comes to this within 50 steps.
    _below('loss.sharpness_weight'),
    _set('model.center_keys', True),
    _set('model.pre_assign_attn', False),
    _match_nouns,
    _set('model.group_residual', False),
    _larger_init,
    _less_noise,
    _below('optimizer.learning_rate'),
  ),
)


def diagnose(
  statistics: Mapping[str, float],
  groups: int,
  current: Kind | None = None,
  noise: float = 1.0,
) -> Kind | None:
  """Kind of collapse that the statistics show; None for none.

  Args:
    statistics: `largest_share`, `groups_per_image` and, where it is known,
      `entropy`, as `losses.assignment.assignment_statistics` defines them.
    groups: how many groups there are.
    current: the diagnosis before, which ends later than it begins.
    noise: factor on the Gumbel noise of training; 1 for an assignment that is
      soft, where a patch is shared out as noise of 1 would draw it.

  Returns:
    One kind. What is undecided comes first: an assignment without preference
    has a winner nevertheless, and who wins then says nothing.
  """

  def limit(kind: Kind, limits: tuple[float, float]) -> float:
    return limits[kind is current]

  preference = 1 - statistics.get('entropy', 0.0) / math.log(groups)
  # However much noise there is, half of all preference is one.
  if preference <= min(limit(UNDECIDED, PREFERENCE) * noise**2, 0.5):
    return UNDECIDED
  if statistics['largest_share'] >= limit(ONE_GROUP, LARGEST_SHARE):
    return ONE_GROUP
  few = statistics['groups_per_image']
  if few <= limit(ONE_PER_IMAGE, GROUPS_PER_IMAGE):
    return ONE_PER_IMAGE
  return None


def period(begin: int, end: int | None) -> str:
  """'steps 100 to 300', or 'from step 100 on'."""
  if end is None:
    return f'from step {begin} on'
  return f'steps {begin} to {end}'


@dataclasses.dataclass(frozen=True)
class CollapseEvent:
  """A collapse from its beginning to its end.

  Attributes:
    kind: which one.
    begin: the step that first showed it.
    end: the first step without it; None as long as it lasts.
    figures: what showed it, in words.
    helps: the options to change, in words.
  """

  kind: Kind
  begin: int
  end: int | None
  figures: str
  helps: str

  @property
  def period(self) -> str:
    """See `period`."""
    return period(self.begin, self.end)

  @property
  def advice(self) -> str:
    """Meaning, and the options that help."""
    helps = f'. What helps: {self.helps}' if self.helps else ''
    return self.kind.meaning + helps

  @property
  def message(self) -> str:
    """Log message: a warning, or that the collapse is over."""
    if self.end is None:
      return (
        f'step {self.begin}: grouping collapse, {self.kind.name} '
        f'({self.figures}): {self.advice}'
      )
    return (
      f'step {self.end}: grouping collapse is over, {self.kind.name} since '
      f'step {self.begin}'
    )


class CollapseMonitor:
  """Follows the logged statistics and notes every collapse.

  It sees the training batches and the validation images. Mostly they agree;
  but the statistics of training are those of the last stage's tokens, and
  where these are groups already, only the pixels of the validation show that
  an earlier stage has collapsed. What training shows, and the validation does
  not, stands.

  Attributes:
    events: what it has noted, in order; only the last one may still last.
  """

  def __init__(
    self,
    groups: int,
    options: Options,
    *,
    grace: int,
    rows: Iterable[Mapping[str, Any]] = (),
  ):
    """Begins to watch.

    Args:
      groups: of the last stage; with less than 2 nothing can collapse.
      options: the run's, for advice that is not followed already.
      grace: steps at the start in which nothing is noted: at first no
        assignment is decided.
      rows: of metrics.jsonl, what earlier processes of the run have seen.
    """
    self.events: list[CollapseEvent] = []
    self._groups = groups
    self._options = options
    self._grace = grace
    soft = options.get('model.assignment') == 'soft'
    self._noise = 1.0 if soft else options.get('model.gumbel_noise', 1.0)
    self._place = ''  # where the last event shows
    for row in rows:
      self.update(row)

  def update(self, row: Mapping[str, Any]) -> CollapseEvent | None:
    """Takes a row of the log.

    Args:
      row: `step`, and statistics named 'train/...' or 'eval/...'.

    Returns:
      The event that begins or ends here (of two, the one that begins).
    """
    place, statistics = _statistics(row)
    if self._groups < 2 or not place or row['step'] <= self._grace:
      return None
    current = self._current()
    elsewhere = place != self._place
    if current and elsewhere and place == 'eval':
      return None
    before = current and current.kind
    kind = diagnose(statistics, self._groups, before, self._noise)
    if kind is None and elsewhere:
      return None
    self._place = place
    if kind is before:
      return None
    ended = self._end(row['step']) if current else None
    return self._begin(kind, row['step'], statistics) if kind else ended

  def _current(self) -> CollapseEvent | None:
    last = self.events[-1] if self.events else None
    return last if last and last.end is None else None

  def _end(self, step: int) -> CollapseEvent:
    self.events[-1] = dataclasses.replace(self.events[-1], end=step)
    return self.events[-1]

  def _begin(
    self, kind: Kind, step: int, statistics: Mapping[str, float]
  ) -> CollapseEvent:
    helps = [remedy(self._options) for remedy in kind.remedies]
    figures = (
      f'largest share {100 * statistics["largest_share"]:.0f} %, '
      f'{statistics["groups_in_use"]:.1f} of {self._groups} groups in use, '
      f'{statistics["groups_per_image"]:.1f} per image'
    )
    if 'entropy' in statistics:
      most = math.log(self._groups)
      figures += f', entropy {statistics["entropy"]:.2f} of {most:.2f}'
    self.events.append(
      CollapseEvent(kind, step, None, figures, ', '.join(filter(None, helps)))
    )
    return self.events[-1]


def _statistics(row: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
  """Returns 'train' or 'eval' and the statistics of it; '' without them."""
  needed = ('largest_share', 'groups_in_use', 'groups_per_image')
  for place in ('train', 'eval'):
    found = {name: row.get(f'{place}/{name}') for name in (*needed, 'entropy')}
    # On disk, what is not finite is null.
    known = {k: v for k, v in found.items() if v is not None and v == v}
    if all(name in known for name in needed):
      return place, known
  return '', {}
