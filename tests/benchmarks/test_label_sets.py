"""Class names by label set: how many, which order, and names from a file."""

import pytest

from groupvit_jax.benchmarks import label_sets


@pytest.mark.parametrize(
  ('name', 'count', 'places'),
  [
    # Places are values in the benchmarks' masks, less the background's 0.
    ('voc', 20, {0: 'aeroplane', 7: 'cat', 10: 'table', 14: 'person'}),
    ('voc20', 20, {11: 'dog', 15: 'plant', 19: 'monitor'}),
    ('context', 59, {0: 'airplane', 29: 'ground', 54: 'monitor', 58: 'wood'}),
    ('context59', 59, {28: 'grass', 39: 'plant', 46: 'sky', 52: 'tree'}),
    ('coco', 80, {0: 'person', 15: 'cat', 62: 'tv', 79: 'toothbrush'}),
    ('ade20k', 150, {0: 'wall', 7: 'bed', 126: 'animal', 149: 'flag'}),
    ('coco_stuff', 171, {79: 'toothbrush', 80: 'banner', 159: 'brick wall'}),
    ('coco_stuff', 171, {98: 'desk', 168: 'window blind', 170: 'wood'}),
    ('pet', 2, {0: 'cat', 1: 'dog'}),
    ('cityscapes', 19, {0: 'road', 9: 'terrain', 13: 'car', 18: 'bicycle'}),
  ],
)
def test_sets_are_the_benchmarks(name, count, places):
  names = label_sets.LABEL_SETS[name]
  assert len(names) == len(set(names)) == count
  assert {place: names[place] for place in places} == places


def test_names_are_ready_for_a_prompt():
  for names in label_sets.LABEL_SETS.values():
    for name in names:
      assert name == ' '.join(name.split()).lower()
      assert name.replace(' ', '').isalpha()


def test_backgrounds_belong_to_sets_that_have_one():
  assert label_sets.BACKGROUND_THRESHOLDS == {
    'voc': 0.95,
    'context': 0.35,
    'coco': 0.95,
  }
  for name in label_sets.BACKGROUND_THRESHOLDS:
    assert 'background' not in label_sets.LABEL_SETS[name]


@pytest.mark.parametrize('name', label_sets.BENCHMARK_SETS)
def test_names_by_protocol(name):
  label_set, background = label_sets.BENCHMARK_SETS[name]
  known = label_sets.LABEL_SETS[label_set]
  first = ('background',) if background else ()
  assert label_sets.class_names(name) == (*first, *known)
  unified = label_sets.class_names(name, 'tcl')
  assert len(unified) == len(set(unified)) == len(first + known)
  assert (unified[0] == 'background') == background


def test_what_the_unified_protocol_calls_otherwise():
  def changed(name):
    pairs = zip(
      label_sets.class_names(name),
      label_sets.class_names(name, 'tcl'),
      strict=True,
    )
    return {ours: theirs for ours, theirs in pairs if ours != theirs}

  voc = {'table': 'diningtable', 'plant': 'pottedplant', 'monitor': 'tvmonitor'}
  context = {
    'airplane': 'aeroplane',
    'plant': 'pottedplant',
    'monitor': 'tvmonitor',
  }
  assert changed('voc21') == changed('voc20') == voc
  assert changed('context60') == changed('context59') == context
  for name in ('coco_object', 'ade20k', 'cityscapes', 'pet', 'scenes'):
    assert not changed(name)
  stuff = changed('coco_stuff')
  assert stuff['brick wall'] == 'wall-brick' and stuff['sky'] == 'sky-other'
  assert all('-' in theirs for theirs in stuff.values())


def test_names_from_a_file(tmp_path):
  path = tmp_path / 'names.txt'
  path.write_bytes(
    '\ufeff# my classes\nperson | man\n\n  palm   tree \r\nŽirafa\n'.encode()
  )
  assert label_sets.read_names(path) == ('person | man', 'palm tree', 'Žirafa')


@pytest.mark.parametrize(
  ('content', 'match'),
  [(b'\n# nothing\n', 'names no class'), (b'\xff\xd8\xff', 'not UTF-8 text')],
)
def test_files_without_names(tmp_path, content, match):
  path = tmp_path / 'names.txt'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=match):
    label_sets.read_names(path)
