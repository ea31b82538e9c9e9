"""The report page: complete, well-formed, alone, calm about what is missing."""

import html.parser
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from groupvit_jax.training import charts, collapse, report

VOID = {'meta', 'img', 'link', 'br'}


class Page(html.parser.HTMLParser):
  """Parses strictly: every tag closed in order; keeps tags, ids and text."""

  def __init__(self, text):
    super().__init__()
    self.source, self.open, self.tags, self.text = text, [], [], ''
    self.feed(text)
    assert not self.open, f'not closed: {self.open}'

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if not self.open or self.open[-1] != 'style':
      self.text += data

  def all(self, tag):
    return [attrs for name, attrs in self.tags if name == tag]


def example(seed=0, **changes):
  rng = np.random.default_rng(seed)
  maps = {
    'ground_truth': np.repeat([[0, 1]], 8, 0).repeat(4, 1),
    'prediction': np.repeat([[0, 2]], 8, 0).repeat(4, 1),
    'final_groups': rng.integers(0, 4, (8, 8)),
    'first_groups': rng.integers(0, 9, (8, 8)),
  }
  image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
  return {'image': image, 'caption': 'a dog on grass', **maps, **changes}


def page(**changes):
  content = {
    'title': 'GroupViT on scenes',
    'figures': {
      'miou': 52.34,
      'untrained_miou': 0.8,
      'oracle_miou': 68.6,
      'untrained_oracle_miou': 54.0,
      'iou/grass': 81.2,
      'untrained_iou/grass': 3.0,
      'iou/dog': 33.3,
      'steps': 1200,
      'wall_seconds': 582.0,
      'images_per_second': 812.0,
      'kmeans_miou': 21.5,
    },
    'config_text': 'batch_size = 256\nname = "<base>"',
    'rows': [
      {'step': 0, 'eval/miou': 0.008, 'eval/oracle_miou': 0.54},
      {'step': 100, 'train/loss': 4.0, 'train/groups_in_use': 5.0},
      {'step': 200, 'train/loss': 2.5, 'eval/miou': 0.523, 'eval/iou/dog': 1},
    ],
    'examples': [example(0), example(1)],
    'snapshots': [(s, [example(0), example(1)]) for s in (0, 100, 1200)],
    'class_names': ('grass', 'dog', 'kite'),
    'notes': ['One seed.'],
  }
  return Page(report.Report(**{**content, **changes}).as_html())


def test_page_shows_everything():
  shown = page()
  for words in (
    'GroupViT on scenes',
    '52.3%',
    'untrained model: 0.8%',
    '1,200 steps',
    '10 min in all',
    '812 images a second',
    'kmeans_miou',
    'One seed.',
    'a dog on grass',
    'Final groups',
    'Earlier groups',
    'Step 1,200',
    'Zero-shot mIoU, %',
    'name = "<base>"',
    'Devices',
  ):
    assert words in shown.text, words
  # 2 images of 5 views; 2 strips: an image, 3 maps at 3 steps, its labels.
  assert len(shown.all('img')) == 2 * 5 + 2 * (1 + 3 * 3 + 1)


def test_page_stands_alone():
  shown = page()
  assert 'http' not in shown.source
  assert not shown.all('script')
  assert not shown.all('link')
  assert all(i['src'].startswith('data:image/png') for i in shown.all('img'))
  anchors = [attrs['id'] for _, attrs in shown.tags if 'id' in attrs]
  assert len(anchors) == len(set(anchors))
  for link in shown.all('a'):
    assert link['href'][1:] in anchors


def test_page_speaks_to_those_who_do_not_see_it():
  shown = page()
  assert shown.all('html')[0]['lang'] == 'en'
  alts = [attrs['alt'] for attrs in shown.all('img')]
  assert all(alts)
  assert 'Predicted classes: grass, kite' in alts
  assert 'True classes: grass, dog' in alts
  assert any('Final groups over the image at step 100' in a for a in alts)
  labels = [chart['aria-label'] for chart in shown.all('svg')]
  assert all(chart['role'] == 'img' for chart in shown.all('svg'))
  assert 'Loss: Loss from 4 at step 100 to 2.5 at step 200' in labels


def test_wrong_classes_are_marked_and_right_ones_are_not():
  shown = page(examples=[example(0)], snapshots=())
  assert '<s>kite</s>' in shown.source
  assert '<s>grass</s>' not in shown.source
  without = example(0, ground_truth=None)
  shown = page(examples=[without], snapshots=())
  assert '<s>' not in shown.source


def test_text_from_outside_is_escaped():
  evil = '<script>alert(1)</script>'
  shown = page(
    title=evil,
    notes=[evil],
    class_names=(evil, '"dog"', 'kite'),
    examples=[example(0, caption=evil)],
    figures={'miou': 1.0, f'iou/{evil}': 2.0, 'note': evil},
    rows=[{'step': 1, f'train/{evil}': 1.0}, {'step': 2, f'train/{evil}': 2}],
  )
  assert not shown.all('script')
  assert evil in shown.text


def test_bars_are_sorted_and_marked_with_the_untrained():
  shown = page()
  assert shown.text.index('81.2') < shown.text.index('33.3')
  assert 'the upright line marks the untrained model' in shown.text
  assert 'left:3.0%' in shown.source
  assert 'upright line' not in page(figures={'iou/dog': 5.0}).text


def test_a_run_with_nothing_to_show_still_has_a_page(tmp_path):
  for title in ('First', 'Second'):  # the second replaces the first
    path = report.Report(title, figures={}).write(tmp_path / 'a' / 'b')
  shown = Page(path.read_text())
  assert 'Second' in shown.text
  assert not shown.all('img')
  assert [attrs['href'] for attrs in shown.all('a')] == ['#run']
  assert [p.name for p in path.parent.iterdir()] == ['index.html']


def test_missing_views_and_figures_that_are_not_finite():
  bare = {'image': np.zeros((8, 8, 3), np.uint8)}
  shown = page(
    examples=[bare],
    snapshots=[(0, [bare]), (5, [])],
    figures={'miou': math.nan, 'untrained_miou': None, 'steps': 3},
    rows=[
      {'step': 0, 'train/loss': math.nan},
      {'train/loss': 1.0},
      {'step': 1, 'train/loss': math.inf, 'train/name': 'text'},
    ],
  )
  assert len(shown.all('img')) == 1
  assert not shown.all('svg')
  assert 'Groups forming' not in shown.text


def test_a_step_without_a_view_leaves_its_place_empty():
  bare = {'image': example(0)['image']}
  snapshots = [(s, [e]) for s, e in enumerate((bare, example(0), bare))]
  shown = page(examples=(), snapshots=snapshots)
  strip = shown.source.split('class="forming"')[1].split('</table>')[0]
  rows = re.findall('<tr><th scope="row">(.*?)</tr>', strip)
  assert len(rows) == 3
  for row in rows:
    cells = re.findall('<td>(.*?)</td>', row)
    assert ['<img' in cell for cell in cells] == [False, True, False]


def test_strips_count_the_groups_of_each_step():
  one = example(0, final_groups=np.zeros((8, 8), int))
  shown = page(examples=[], snapshots=[(0, [example(0)]), (5, [one])])
  finals = shown.text.split('Final groups')[1]
  assert finals.strip().startswith('4 used')
  assert finals.split('4 used')[1].strip().startswith('1 used')


def test_large_images_are_reduced():
  image = np.zeros((900, 1200, 3), np.uint8)
  (img,) = page(examples=[{'image': image}], snapshots=()).all('img')
  assert (img['width'], img['height']) == ('256', '192')


def event(begin, end):
  kind = collapse.Kind('<all> in one', 'patches join one group', ())
  return collapse.CollapseEvent(
    kind, begin, end, 'share 97 %', 'loss.x above 0'
  )


def test_a_collapse_is_told_at_the_top_and_shaded_where_it_shows():
  rows = [
    {'step': s, 'train/groups_in_use': 2.0, 'train/loss': 1.0}
    for s in range(0, 401, 100)
  ]
  shown = page(rows=rows, events=[event(100, 200), event(300, None)])
  for words in (
    'Grouping collapse: <all> in one, steps 100 to 200 (share 97 %). Patches '
    'join one group. What helps: loss.x above 0.',
    'Grouping collapse: <all> in one, from step 300 on',
    'Shaded: the groups had collapsed.',
  ):
    assert words in shown.text, words
  assert shown.text.index('<all>') < shown.text.index('Zero-shot mIoU')
  drawn = {c['aria-label'].split(':')[0]: c for c in shown.all('svg')}
  shaded = '; shaded from step 100 to 200; shaded from step 300'
  assert drawn['Groups in use']['aria-label'].endswith(shaded)
  assert 'shaded' not in drawn['Loss']['aria-label']
  assert shown.source.count('fill: var(--wrong)') == 2
  calm = page()
  assert 'ollapsed' not in calm.text
  assert 'fill: var(--wrong)' not in calm.source


def paths(svg, colour):
  """Corners of the paths of a colour, as arrays of x and y (downwards)."""
  return [
    np.array(re.findall(r'[ML] ([-\d.]+) ([-\d.]+)', path.get('d')), float)
    for path in ET.fromstring(svg.replace('xlink:', '')).iter('path')
    if f'{colour}' in path.get('style', '') and 'clip-path' in path.attrib
  ]


def test_lines_and_bands_lie_where_their_steps_are():
  points = {'x': [(0, 4.0), (50, 2.0), (100, 1.0)]}
  bands = ((50, None), (-20, 50), (150, 200))
  svg = charts.chart('X', points, bands)
  (line,) = paths(svg, 'stroke: var(--line-0)')
  (left, top), (middle, _), (right, bottom) = line
  assert left < middle < right
  assert top < bottom  # it falls
  np.testing.assert_allclose(middle, (left + right) / 2, atol=0.1)
  later, earlier = paths(svg, 'fill: var(--wrong)')  # the third is outside
  np.testing.assert_allclose(later[:, 0].min(), middle, atol=0.1)
  assert later[:, 0].max() > right
  np.testing.assert_allclose(earlier[:, 0].max(), middle, atol=0.1)
  assert charts.chart('X', points) == charts.chart('X', points)


def test_series_of_a_resumed_run_keep_the_later_value():
  rows = [
    {'step': 100, 'train/loss': 9.0},
    {'step': 50, 'train/loss': 3.0},
    {'step': 100, 'train/loss': 2.0, 'eval/iou/dog': 0.5},
  ]
  series = charts.collect_series(rows)
  assert series == {'train/loss': [(50, 3.0), (100, 2.0)]}


@pytest.mark.parametrize(
  ('value', 'words'),
  [(0, '0'), (0.0016, '0.0016'), (12.34, '12.3'), (1200, '1,200'), (-3, '-3')],
)
def test_numbers_are_short(value, words):
  assert charts.number(value) == words
