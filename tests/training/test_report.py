"""The report page: complete, well-formed, alone, calm about what is missing."""

import html.parser
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from groupvit_jax.training import collapse, report, report_charts
from groupvit_jax.training.report import Classes

NAMES = ('grass', 'dog', 'kite')
VOID = {'meta', 'img', 'link', 'br'}


class Page(html.parser.HTMLParser):
  """Parses strictly: every tag closed in order; keeps tags, ids and text."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.text = [], [], ''
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


def picture(seed=0, **changes):
  rng = np.random.default_rng(seed)
  maps = {
    'truth': np.repeat([[0, 1]], 8, 0).repeat(4, 1),
    'prediction': np.repeat([[0, 2]], 8, 0).repeat(4, 1),
    'final_groups': rng.integers(0, 4, (8, 8)),
    'first_groups': rng.integers(0, 9, (8, 8)),
  }
  image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
  return {'image': image, 'caption': 'a dog on grass', **maps, **changes}


def write(path, **changes):
  arguments = {
    'title': 'GroupViT on scenes',
    'figures': {
      'miou': 52.34,
      'untrained_miou': 0.8,
      'miou_things': 40.1,
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
    'curves': [
      {'step': 0, 'eval/miou': 0.008, 'eval/oracle_miou': 0.54},
      {'step': 100, 'train/loss': 4.0, 'train/groups_in_use': 5.0},
      {'step': 200, 'train/loss': 2.5, 'eval/miou': 0.523, 'eval/iou/dog': 1},
    ],
    'pictures': [picture(0), picture(1)],
    'snapshots': [(s, [picture(0), picture(1)]) for s in (0, 100, 1200)],
    'class_names': NAMES,
    'notes': 'One seed.',
  }
  page = report.write_report(path, **{**arguments, **changes})
  return page, Page(page.read_text())


def test_page_shows_everything(tmp_path):
  path, page = write(tmp_path / 'run' / 'report')
  assert path == tmp_path / 'run' / 'report' / 'index.html'
  for words in (
    'GroupViT on scenes',
    '52.3%',
    'untrained model: 0.8%',
    'untrained model: 54.0%',
    '1,200 steps',
    '9 min 42 s in all',
    '812 images a second',
    'kmeans_miou',
    'One seed.',
    'a dog on grass',
    'Final groups',
    'First-stage groups',
    'Step 1,200',
    'Zero-shot mIoU, %',
    'name = "<base>"',
    'Devices',
  ):
    assert words in page.text, words
  # 2 pictures of 5 views; 2 strips of a picture, 3 maps at 3 steps, the truth.
  assert len(page.all('img')) == 2 * 5 + 2 * (1 + 3 * 3 + 1)
  assert [p.name for p in path.parent.iterdir()] == ['index.html']


def test_page_stands_alone(tmp_path):
  path, page = write(tmp_path)
  text = path.read_text()
  assert 'http' not in text
  assert not page.all('script')
  assert not page.all('link')
  assert all(i['src'].startswith('data:image/png') for i in page.all('img'))
  anchors = {attrs['id'] for _, attrs in page.tags if 'id' in attrs}
  for link in page.all('a'):
    assert link['href'][1:] in anchors


def test_page_speaks_to_those_who_do_not_see_it(tmp_path):
  _, page = write(tmp_path)
  assert page.all('html')[0]['lang'] == 'en'
  alts = [attrs['alt'] for attrs in page.all('img')]
  assert all(alts)
  assert 'Predicted classes: grass, kite' in alts
  assert 'True classes: grass, dog' in alts
  assert any('Final groups over the picture at step 100' in a for a in alts)
  for chart in page.all('svg'):
    assert chart['role'] == 'img'
    assert chart['aria-label']
  assert any(
    'loss from 4 at step 100 to 2.5 at step 200' in c['aria-label'].lower()
    for c in page.all('svg')
  )


def test_wrong_classes_are_marked_and_right_ones_are_not(tmp_path):
  path, _ = write(tmp_path, pictures=[picture(0)], snapshots=())
  text = path.read_text()
  assert '<s>kite</s>' in text
  assert '<s>grass</s>' not in text
  without = picture(0)
  del without['truth']
  path, _ = write(tmp_path, pictures=[without], snapshots=())
  assert '<s>' not in path.read_text()


def test_text_from_outside_is_escaped(tmp_path):
  evil = '<script>alert(1)</script>'
  path, page = write(
    tmp_path,
    title=evil,
    notes=[evil],
    class_names=(evil, '"dog"', 'kite'),
    pictures=[picture(0, caption=evil)],
    figures={'miou': 1.0, f'iou/{evil}': 2.0, 'note': evil},
    curves=[{'step': 1, f'train/{evil}': 1.0}, {'step': 2, f'train/{evil}': 2}],
    environment={'System': evil},
  )
  assert not page.all('script')
  assert evil in page.text


def test_bars_are_sorted_and_marked_with_the_untrained(tmp_path):
  path, page = write(tmp_path)
  assert page.text.index('81.2') < page.text.index('33.3')
  assert 'the upright line marks the untrained model' in page.text
  assert 'left:3.0%' in path.read_text()
  _, page = write(tmp_path, figures={'iou/dog': 5.0})
  assert 'upright line' not in page.text


def test_a_run_with_nothing_to_show_still_has_a_page(tmp_path):
  path = report.write_report(tmp_path, title='Empty', figures={})
  page = Page(path.read_text())
  assert 'Empty' in page.text
  assert not page.all('img')
  links = [attrs['href'] for attrs in page.all('a')]
  assert links == ['#run']


def test_missing_views_and_figures_that_are_not_finite(tmp_path):
  bare = {'image': np.zeros((8, 8, 3), np.uint8)}
  _, page = write(
    tmp_path,
    pictures=[bare],
    snapshots=[(0, [bare]), (5, [])],
    figures={'miou': math.nan, 'untrained_miou': None, 'steps': 3},
    curves=[
      {'step': 0, 'train/loss': math.nan},
      {'train/loss': 1.0},
      {'step': 1, 'train/loss': math.inf, 'train/name': 'text'},
    ],
  )
  assert len(page.all('img')) == 1
  assert not page.all('svg')
  assert 'Groups forming' not in page.text


def test_one_grouping_stage_is_shown_once(tmp_path):
  one = picture(0)
  one['first_groups'] = one['final_groups']
  _, page = write(tmp_path, pictures=[one], snapshots=[(0, [one]), (5, [one])])
  assert 'First-stage groups' not in page.text
  assert len(page.all('img')) == 4 + (1 + 2 * 2 + 1)


def test_two_stages_that_agree_once_are_two(tmp_path):
  same = picture(0)
  same['first_groups'] = same['final_groups']
  snapshots = [(0, [same]), (5, [picture(1)])]
  _, page = write(tmp_path, pictures=[same, picture(1)], snapshots=snapshots)
  assert len(page.all('img')) == 2 * 5 + (1 + 3 * 2 + 1)


def test_a_step_without_a_view_leaves_its_place_empty(tmp_path):
  bare = {'image': picture(0)['image']}
  snapshots = [(s, [p]) for s, p in enumerate((bare, picture(0), bare))]
  colours = np.eye(3, dtype=np.uint8)
  page = report.forming(snapshots, Classes(NAMES, colours))
  rows = re.findall('<tr>(<th scope="row">.*?)</tr>', page)
  assert len(rows) == 3
  for row in rows:
    cells = re.findall('<td>(.*?)</td>', row)
    assert ['<img' in cell for cell in cells] == [False, True, False]


def test_strips_count_the_groups_of_each_step(tmp_path):
  one = picture(0, final_groups=np.zeros((8, 8), int))
  snapshots = [(0, [picture(0)]), (5, [one])]
  _, page = write(tmp_path, pictures=[], snapshots=snapshots)
  finals = page.text.split('Final groups')[1]
  assert finals.strip().startswith('4 used')
  assert finals.split('4 used')[1].strip().startswith('1 used')


def spell(begin, end):
  kind = collapse.Kind('<all> in one', 'patches join one group', ())
  return collapse.Spell(kind, begin, end, 'share 97 %', 'loss.x above 0')


def test_a_collapse_is_told_at_the_top_and_shaded_where_it_shows(tmp_path):
  rows = [
    {'step': s, 'train/groups_in_use': 2.0, 'train/loss': 1.0}
    for s in range(0, 401, 100)
  ]
  spells = [spell(100, 200), spell(300, None)]
  path, page = write(tmp_path, curves=rows, collapses=spells)
  for words in (
    'Grouping collapse: <all> in one, steps 100 to 200 (share 97 %). Patches '
    'join one group. What helps: loss.x above 0.',
    'Grouping collapse: <all> in one, from step 300 on',
    'Shaded: the groups had collapsed.',
  ):
    assert words in page.text, words
  assert page.text.index('<all>') < page.text.index('Zero-shot mIoU')
  charts = {c['aria-label'].split(':')[0]: c for c in page.all('svg')}
  shaded = '; shaded from step 100 to 200; shaded from step 300 to 400'
  assert charts['Groups in use']['aria-label'].endswith(shaded)
  assert 'shaded' not in charts['Loss']['aria-label']
  assert len(page.all('rect')) == 2


def test_without_a_collapse_nothing_is_said_of_one(tmp_path):
  path, page = write(tmp_path)
  assert 'ollapsed' not in page.text
  assert 'class="band"' not in path.read_text()


def test_bands_lie_where_their_steps_are():
  points = {'x': [(0, 1.0), (100, 2.0)]}

  def bands(*given):
    svg = ET.fromstring(report_charts.line_chart('X', points, given))
    return [
      (float(r.get('x')), float(r.get('x')) + float(r.get('width')))
      for r in svg.findall('rect')
    ]

  left, right = report_charts.LEFT, report_charts.WIDTH - report_charts.RIGHT
  middle = (left + right) / 2
  np.testing.assert_allclose(bands((50, None)), [(middle, right)])
  np.testing.assert_allclose(bands((-20, 50)), [(left, middle)])
  # One that has just begun is seen; one beyond the curves is not there.
  np.testing.assert_allclose(bands((100, None)), [(right - 2, right)])
  assert bands((150, 200), (-9, -5)) == []


def test_large_pictures_are_reduced(tmp_path):
  image = np.zeros((900, 1200, 3), np.uint8)
  _, page = write(tmp_path, pictures=[{'image': image}], snapshots=())
  (img,) = page.all('img')
  assert (img['width'], img['height']) == ('256', '192')


def test_writing_again_replaces_the_page(tmp_path):
  write(tmp_path, title='First')
  path, page = write(tmp_path, title='Second')
  assert 'Second' in page.text
  assert 'First<' not in path.read_text()


def test_series_of_a_resumed_run_keep_the_later_value():
  rows = [
    {'step': 100, 'train/loss': 9.0},
    {'step': 50, 'train/loss': 3.0},
    {'step': 100, 'train/loss': 2.0, 'eval/iou/dog': 0.5},
  ]
  series = report.collect_series(rows)
  assert series == {'train/loss': [(50, 3.0), (100, 2.0)]}


def test_report_needs_neither_matplotlib_nor_jinja2():
  code = (
    'import sys; import groupvit_jax.training.report; '
    "assert not {'matplotlib', 'jinja2', 'tensorflow'} & set(sys.modules)"
  )
  subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize(
  ('low', 'high'),
  [(0, 1), (0.3, 0.31), (-5, 5), (0, 1600), (1e-7, 9e-7), (3, 3)],
)
def test_ticks_are_round_even_and_cover_the_range(low, high):
  got = report_charts.ticks(low, high, 4)
  assert 2 <= len(got) <= 8
  assert got[0] <= low + 1e-12
  assert got[-1] >= high - 1e-12
  steps = np.diff(got)
  np.testing.assert_allclose(steps, steps[0])
  digit = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
  assert min(abs(digit - d) for d in (1, 2, 5, 10)) < 1e-6


@pytest.mark.parametrize(
  ('value', 'words'),
  [
    (0, '0'),
    (0.00005, '5e-5'),
    (0.0016, '0.0016'),
    (12.34, '12.3'),
    (812.4, '812.4'),
    (1200, '1,200'),
    (25_600, '25.6k'),
    (-3.0, '-3'),
  ],
)
def test_numbers_are_short(value, words):
  assert report_charts.number(value) == words


def test_a_line_breaks_where_it_is_not_finite_and_keeps_its_last_point():
  points = [(i, math.nan if i == 2 else float(i)) for i in range(1000)]
  svg = ET.fromstring(report_charts.line_chart('Loss', {'a & b': points}))
  (path,) = svg.findall('path')
  assert path.get('d').count('M') == 1 + (2 in [p[0] for p in points[4::5]])
  assert 'L348.0' in path.get('d')  # the right edge
  (dot,) = svg.findall('circle')
  assert dot.find('title').text == 'a & b: 999 at step 999'
  gap = report_charts.line_chart(
    'Loss', {'a': [(0, 1.0), (1, math.nan), (2, 3.0)]}
  )
  assert ET.fromstring(gap).find('path').get('d').count('M') == 2


def test_a_line_falls_when_its_values_fall():
  svg = ET.fromstring(
    report_charts.line_chart('Loss', {'loss': [(0, 4.0), (10, 1.0)]})
  )
  start, end = svg.find('path').get('d')[1:].split('L')
  assert float(start.split()[0]) < float(end.split()[0])
  assert float(start.split()[1]) < float(end.split()[1])  # y grows downwards


def test_a_single_point_is_a_chart_and_nothing_is_none():
  assert 'circle' in report_charts.line_chart('Loss', {'loss': [(5, 2.0)]})
  assert report_charts.line_chart('Loss', {}) == ''
