"""`groupvit evaluate`: what it measures, leaves and prints; how it fails."""

import json

import jax
import numpy as np
import pytest

import groupvit_jax as gv
from groupvit_jax import cli
from groupvit_jax.benchmarks import label_sets
from groupvit_jax.cli import evaluate
from groupvit_jax.evaluation import clustering, metrics

COUNT = 5
# One image at a time: interrupted runs share the programs of whole ones.
RULE = ['--size', '16', '--set', 'background_threshold=0.6', '--batch', '1']


@pytest.fixture(scope='module')
def places(evaluation_folders, tiny_inference, tmp_path_factory):
  """Folders by name."""
  root = tmp_path_factory.mktemp('evaluated')
  vit = tiny_inference.vit()
  return {
    'root': root,
    'model': evaluation_folders.model(root / 'model'),
    'vit': evaluation_folders.model(root / 'vit', vit),
    'photos': evaluation_folders.segmented(root / 'photos', COUNT),
    'classes': evaluation_folders.classified(root / 'classes'),
    'captions': evaluation_folders.captioned(root / 'captions'),
  }


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
  """As a laptop has; the evaluators' own tests are on eight."""
  monkeypatch.setattr(jax, 'device_count', lambda *_: 1)


class Reads:
  """The positions that a set of images has read, and where Ctrl-C comes."""

  def __init__(self, patch, kind):
    self.positions, self.stop = [], 2
    read = kind.__getitem__

    def watched(examples, index):
      self.positions.append(index)
      if index == self.stop:
        raise KeyboardInterrupt
      return read(examples, index)

    patch.setattr(kind, '__getitem__', watched)

  def go_on(self):
    """No more interruptions; positions are of what is read from here on."""
    self.positions, self.stop = [], None


def run(places, benchmark, *args, model='model', data=None):
  argv = ['evaluate', '--model', places[model], '--benchmark', benchmark, *args]
  if benchmark not in ('scenes', 'voc21') or data:
    argv += ['--data', data or places.get(benchmark, places['photos'])]
  return cli.main(list(map(str, argv)))


def error_line(capsys) -> str:
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1
  assert lines[0].startswith('groupvit: error: ')
  return lines[0]


@pytest.fixture(scope='module')
def done(places):
  """A run on labelled pixels, and its report."""
  out = places['root'] / 'photos.json'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'device_count', lambda *_: 1)
    assert run(places, 'folder', *RULE, '--out', out) == 0
  return json.loads(out.read_text())


def test_the_matrix_is_that_of_segmenting_each_image(
  evaluation_folders, places, done
):
  """Pixel for pixel what `Model.segment` gives under the same rule."""
  from groupvit_jax import benchmarks

  model = gv.load(places['model'], compilation_cache=False)
  segment = done['settings']['protocol']['segment']
  assert segment['mode'] == 'slide' and segment['short_side'] == 16
  config = gv.SegmentConfig(**segment)
  total = np.zeros((5, 5), np.int64)
  examples = benchmarks.open_set('folder', places['photos'])
  for i in range(COUNT):
    found = model.segment(
      examples[i].image, evaluation_folders.CLASSES[1:], config
    )
    real = examples[i].label != 255
    np.add.at(total, (examples[i].label[real], found.labels[real]), 1)
  matrix = np.asarray(done['confusion_matrix'])
  assert matrix.sum() == total.sum()
  # A pixel in some hundred may tie; see tests of the evaluator for exactness.
  assert abs(matrix - total).sum() <= 0.01 * total.sum()
  assert (matrix.sum(0) > 0).sum() > 1, 'a test of one class tests little'


def test_every_figure_follows_from_the_matrix(done):
  matrix = np.asarray(done['confusion_matrix'])
  assert done['miou'] == pytest.approx(100 * metrics.miou(matrix))
  assert done['figures']['miou'] == done['miou']
  assert done['figures']['pixel_accuracy'] == pytest.approx(
    100 * np.trace(matrix) / matrix.sum()
  )
  by_class = metrics.iou(matrix)
  names = [entry['name'] for entry in done['classes']]
  assert names == ['background', 'dog', 'grass', 'sky', 'sea']
  for entry, value, pixels in zip(
    done['classes'], by_class, matrix.sum(1), strict=True
  ):
    assert entry['pixels'] == pixels
    if np.isnan(value):
      assert entry['iou'] is None
    else:
      assert entry['iou'] == pytest.approx(100 * value)
  assert np.asarray(done['oracle_confusion_matrix']).shape == (5, 5)
  assert np.asarray(done['given_background_confusion_matrix']).shape == (5, 5)


def test_what_no_matrix_holds_follows_from_counts(done):
  both, labelled, found = np.asarray(done['boundary_counts'], float)
  union = labelled + found - both
  shares = both[union > 0] / union[union > 0]
  assert done['figures']['boundary_miou'] == pytest.approx(100 * shares.mean())
  windows, sums = np.asarray(done['best_group_counts'])[:, 1:].sum(1)
  assert done['figures']['best_group_jaccard'] == pytest.approx(
    100 * sums / 1e5 / windows
  )


def test_the_report_says_how_it_was_made(evaluation_folders, places, done):
  settings = done['settings']
  protocol = settings['protocol']
  assert protocol['name'] == 'groupvit'
  assert protocol['segment']['background_threshold'] == 0.6
  assert protocol['segment']['top_k'] == 5
  assert 'background_threshold' in protocol['changed']
  assert protocol['templates'] == ['a photo of a {}.']
  assert settings['sizes'] == {
    'short_side': 16,
    'long_side': 73,
    'window': 16,
    'stride': 8,
    'patch_size': 4,
  }
  assert settings['class_names'] == list(evaluation_folders.CLASSES)
  assert settings['benchmark'] == 'folder' and settings['background']
  assert settings['data'] == str(places['photos'].resolve())
  assert settings['num_groups'] is None and settings['options'] == {}
  assert done['images'] == COUNT and done['skipped'] == []
  assert len(done['model']['sha256']) == 64
  assert {'groupvit_jax', 'jax', 'numpy', 'device'} <= set(done['versions'])
  assert done['seconds'] > 0 and done['date'].startswith('2')


def test_the_report_holds_a_diagnosis(places, done):
  from groupvit_jax.evaluation import diagnosis

  found = diagnosis.of_result(done)  # of the file alone
  assert found.miou == pytest.approx(done['miou'] / 100)
  # It was not asked for, and each image would be labelled once more.
  assert done.get('class_list_miou') is None and found.class_list_miou is None
  held = done['diagnosis']
  assert held['grouping_error'] == pytest.approx(100 * found.grouping)
  assert held['confusions'][0]['pixels'] == found.confusions[0].pixels
  parts = held['grouping_error'] + held['labelling_error']
  assert parts == pytest.approx(100 - done['miou'])
  # A row of a matrix is a line.
  lines = (places['root'] / 'photos.json').read_text().splitlines()
  row = ', '.join(map(str, done['confusion_matrix'][1]))
  assert any(line.strip(' ,') == f'[{row}]' for line in lines)


def test_the_table_shows_classes_and_figures(places, capsys):
  args = *RULE, '--no-boundary', '--limit', '2', '--diagnosis'
  assert run(places, 'folder', *args) == 0
  out = capsys.readouterr().out.splitlines()
  assert out[0].startswith('folder; protocol groupvit, but for')
  assert '2 images' in out[0]
  heads = next(line for line in out if line.startswith('class'))
  assert heads.split() == ['class', 'IoU', 'accuracy', 'oracle']
  assert any(line.split()[:1] == ['dog'] for line in out)
  assert any(line.endswith(' mIoU') for line in out)
  assert any('only the classes that an image shows' in line for line in out)
  assert not any('boundary' in line for line in out)
  assert any(line.startswith('| grouping | ') for line in out)


def test_a_file_is_not_replaced_unasked(places, done, capsys):
  out = places['root'] / 'photos.json'
  assert run(places, 'folder', *RULE, '--out', out) == 1
  assert 'exists: choose another --out, or replace it' in error_line(capsys)
  assert run(places, 'folder', *RULE, '--out', out, '--overwrite') == 0
  again = json.loads(out.read_text())
  assert again['confusion_matrix'] == done['confusion_matrix']
  assert [path.name for path in out.parent.glob('photos.json*')] == [out.name]


def test_an_interrupted_run_goes_on(places, done, capsys, monkeypatch):
  """After two images Ctrl-C; the same command then gives the same matrix."""
  from groupvit_jax.benchmarks import base

  out = places['root'] / 'stopped.json'
  args = *RULE, '--out', out
  reads = Reads(monkeypatch, base.PairSet)
  assert run(places, 'folder', *args) == 130
  assert 'the same command resumes it' in error_line(capsys)
  assert not out.exists()
  reads.go_on()
  assert run(places, 'folder', *args) == 0
  assert 2 in reads.positions and len(reads.positions) < COUNT
  report = json.loads(out.read_text())
  assert report['confusion_matrix'] == done['confusion_matrix']
  assert report['images'] == COUNT


def test_bad_images_are_named_or_skipped(
  evaluation_folders, places, done, tmp_path, capsys
):
  photos = evaluation_folders.segmented(tmp_path / 'photos', COUNT)
  (photos / 'images' / '3.png').write_bytes(b'no image')
  (photos / 'masks' / '4.png').unlink()
  args = *RULE, '--out', tmp_path / 'out.json'
  assert run(places, 'folder', *args, data=photos) == 1
  assert '3.png is not an image' in error_line(capsys)
  assert run(places, 'folder', *args, '--skip-bad', data=photos) == 0
  err = capsys.readouterr().err.splitlines()
  assert len(err) == 2 and all(line.startswith('groupvit: ski') for line in err)
  report = json.loads((tmp_path / 'out.json').read_text())
  assert report['images'] == 3
  assert [entry['name'] for entry in report['skipped']] == ['3', '4']
  assert report['settings']['skip_bad']


def test_patches_of_a_model_without_groups_are_grouped(places, capsys):
  assert run(places, 'folder', *RULE, model='vit') == 1
  assert 'has no groups of its own; choose how patches' in error_line(capsys)
  for name, more in (('kmeans', ['--num-groups', '3']), ('pixels', [])):
    args = *RULE, '--regions', name, *more, '--no-boundary'
    assert run(places, 'folder', *args, model='vit') == 0
    assert 'mIoU' in capsys.readouterr().out
  assert run(places, 'folder', *RULE, '--regions', 'kmeans') == 1
  assert 'this model has groups of its own' in error_line(capsys)


def test_classification(evaluation_folders, places, tmp_path, capsys):
  out = tmp_path / 'out.json'
  assert run(places, 'classes', '--out', out) == 0
  assert 'top-1' in capsys.readouterr().out
  report = json.loads(out.read_text())
  model = gv.load(places['model'], compilation_cache=False)
  names = evaluation_folders.WORDS
  right = [
    max(odds, key=odds.get) == name
    for name in names
    for odds in model.classify(
      [str(places['classes'] / name / f'{j}.png') for j in range(2)],
      names,
      templates='subset',
    )
  ]
  assert report['figures']['top1'] == pytest.approx(100 * np.mean(right))
  assert report['figures']['top5'] == 100
  assert report['images'] == 6
  assert len(report['settings']['templates']) == 7
  assert 'confusion_matrix' not in report
  assert run(places, 'imagenet', data=places['classes']) == 1
  assert 'not named by WordNet ids' in error_line(capsys)


def test_retrieval(places, tmp_path):
  out = tmp_path / 'out.json'
  assert run(places, 'captions', '--out', out) == 0
  report = json.loads(out.read_text())
  model = gv.load(places['model'], compilation_cache=False)
  rows = [
    json.loads(line)
    for line in (places['captions'] / 'captions.jsonl').read_text().splitlines()
  ]
  images = model.encode_image(
    [str(places['captions'] / row['image']) for row in rows]
  )
  texts = model.encode_text([t for row in rows for t in row['captions']])
  owner = np.repeat(
    np.arange(len(rows)), [len(row['captions']) for row in rows]
  )
  best = (texts @ images.T).argmax(1)
  assert report['figures']['text_to_image_r1'] == pytest.approx(
    100 * np.mean(best == owner)
  )
  assert report['figures']['image_to_text_r10'] == 100
  assert report['images'] == 4 and report['settings']['captions'] == 6
  assert set(report['figures']) == {
    f'{way}_r{k}'
    for way in ('image_to_text', 'text_to_image')
    for k in (1, 5, 10)
  }


@pytest.mark.parametrize(
  ('benchmark', 'args', 'reason'),
  [
    ('voc21', [], 'voc21 needs its folder: give --data DIR'),
    ('scenes', ['--set', 'top_k'], 'write FIELD=VALUE'),
    (
      'scenes',
      ['--set', 'top_k=1', '--set', 'segment.top_k=2'],
      'has top_k twice',
    ),
    ('folder', ['--set', 'topk=1'], "has no field 'topk'; it has "),
    ('scenes', ['--set', 'data.count=x'], "a whole number, not 'x'"),
    ('folder', ['--set', 'templates=none such'], 'is unknown; choose one of'),
    ('folder', ['--set', 'data.size=9'], "has no option 'size'"),
    ('folder', ['--size', '20000'], 'short_side is in pixels, 1'),
    ('classes', ['--set', 'top_k=1'], "'top_k' is an option of segmentation"),
    ('captions', ['--set', 'templates=full'], 'captions go into one template'),
    ('classes', ['--size', '16'], "'short_side' is an option of seg"),
  ],
)
def test_settings_that_cannot_be(places, capsys, benchmark, args, reason):
  assert run(places, benchmark, *args) == 1
  assert reason in error_line(capsys)


def test_data_that_are_not_there(places, tmp_path, capsys):
  assert run(places, 'folder', data=tmp_path / 'none') == 1
  assert 'there is no such folder or shard' in error_line(capsys)
  assert run(places, 'voc21', data=tmp_path) == 1
  assert 'JPEGImages/ID.jpg' in error_line(capsys)
  names = tmp_path / 'names.txt'
  names.write_text('cat\ndog\n')
  assert run(places, 'folder', '--class-names', names) == 1
  assert '2 class names were given, and folder has 5' in error_line(capsys)


def test_values_of_settings():
  settings = ['a=none', 'b=True', 'segment.c=3', 'd=.5', 'e=a {}', 'f=x=y']
  settings += ['g=.5, 1', 'h=one, two']
  assert evaluate.read_settings(settings) == {
    'a': None,
    'b': True,
    'c': 3,
    'd': 0.5,
    'e': 'a {}',
    'f': 'x=y',
    'g': (0.5, 1),
    'h': 'one, two',
  }


def test_the_help_lists_what_there_is():
  from groupvit_jax import benchmarks

  known = benchmarks.BENCHMARKS
  assert tuple(known) == label_sets.SEGMENTATION
  drawn = [name for name in known if not known[name].readers]
  assert set(drawn) == set(label_sets.SYNTHETIC) & set(known)
  assert set(label_sets.REGIONS[1:]) == set(clustering.GROUPINGS)


def test_a_file_that_cannot_be_written_takes_no_figures(
  places, tmp_path, capsys, monkeypatch
):
  from groupvit_jax.benchmarks.classification import LabelledImages

  out = tmp_path / 'out.json'
  read = LabelledImages.__getitem__

  def taken(self, index):
    out.mkdir(exist_ok=True)  # meanwhile, by another
    return read(self, index)

  monkeypatch.setattr(LabelledImages, '__getitem__', taken)
  assert run(places, 'classes', '--out', out) == 1
  captured = capsys.readouterr()
  assert 'top-1' in captured.out
  assert captured.err.startswith('groupvit: error: ')
  # Nothing has to be measured again.
  assert (tmp_path / 'out.json.resume.jsonl').exists()


@pytest.mark.parametrize(
  ('benchmark', 'before'), [('classes', 'old'), ('captions', None)]
)
def test_image_level_benchmarks_go_on_as_well(
  places, tmp_path, capsys, monkeypatch, benchmark, before
):
  """After two images Ctrl-C; then the same figures, to the last bit.

  A report to be replaced stays until the end.
  """
  from groupvit_jax.benchmarks.captions import CaptionSet
  from groupvit_jax.benchmarks.classification import LabelledImages

  kind = LabelledImages if benchmark == 'classes' else CaptionSet
  out, kept = tmp_path / 'out.json', {'out.json.resume.jsonl'}
  args = ['--batch', '2', '--out']
  assert run(places, benchmark, *args, tmp_path / 'whole.json') == 0
  args += [out]
  if before:
    out.write_text(before)
    args += ['--overwrite']
    kept |= {out.name}
  reads = Reads(monkeypatch, kind)
  assert run(places, benchmark, *args) == 130
  assert 'the same command resumes it' in capsys.readouterr().err
  assert {p.name for p in tmp_path.glob('out*')} == kept
  assert not before or out.read_text() == before
  reads.go_on()
  assert run(places, benchmark, *args, '--limit', '3') == 1
  message = capsys.readouterr().err
  assert 'unfinished evaluation with' in message and '(--limit' in message
  assert run(places, benchmark, *args, model='vit') == 1
  assert 'with other weights (--model); delete' in capsys.readouterr().err
  assert not reads.positions
  assert run(places, benchmark, *args) == 0
  assert reads.positions and min(reads.positions) == 2
  whole, found = (
    json.loads((tmp_path / name).read_text())
    for name in ('whole.json', 'out.json')
  )
  assert found['figures'] == whole['figures']
  assert found['images'] == whole['images']
  assert not list(tmp_path.glob('*.resume.jsonl'))


def test_captions_count_as_they_are_in_the_end(
  evaluation_folders, places, tmp_path, monkeypatch
):
  """Vectors of images are what is kept; captions may be mended meanwhile."""
  from groupvit_jax.benchmarks.captions import CaptionSet

  data, out = evaluation_folders.captioned(tmp_path / 'd'), tmp_path / 'o.json'
  args = 'captions', '--batch', '2', '--out'
  reads = Reads(monkeypatch, CaptionSet)
  assert run(places, *args, out, data=data) == 130
  reads.go_on()
  listed = data / 'captions.jsonl'
  listed.write_text(listed.read_text().replace('image 1', 'a sea'))
  whole = tmp_path / 'whole.json'
  for each in (whole, out):
    assert run(places, *args, each, data=data) == 0
  found, want = (json.loads(path.read_text()) for path in (out, whole))
  assert found['figures'] == want['figures']
