"""The commands and Python of the pages run, made small by further options.

In one process and one folder, which holds what the pages name: images, pairs,
labelled sets and models. Training runs in the slow test; the quick one reads
its flags, opens its data and makes a batch. ELSEWHERE lists what does not run
here, and why.
"""

import json
import pathlib
import re
import shlex
import shutil
import sys
import textwrap

import jax
import numpy as np
import pytest
from absl import app
from absl.testing import flagsaver
from PIL import Image

from groupvit_jax import cli, main, scenes, sharding
from groupvit_jax.convert import folder as model_folder
from groupvit_jax.training import inputs, loop

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [
  str(path.relative_to(ROOT))
  for path in sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')])
  if re.search(r'^ *```(sh|python)$', path.read_text(), re.MULTILINE)
]
# Part of a line: why it does not run here. test_docs.py reads their options.
ELSEWHERE = {
  'pip ': 'changes or lists the environment: .ci/run installs into a fresh one',
  'git clone ADDRESS': 'the repository has no address yet',
  'python -m venv': 'belongs to an installation',
  'pytest ': 'these are its tests',
  '.ci/run': 'these are its tests',
  'sed -i': 'test_docs.py runs it on a copy',
  'gcloud ': 'needs TPUs',
  'srun ': 'needs Slurm',
  ' --distributed ': 'needs several processes: test_distributed.py has two',
  'export JAX_COORDINATOR': 'is of several processes',
  'hf://': 'reads data of the hub',
  'Runner --': "needs a cluster: tests/data runs Beam's DirectRunner",
  'tfds.builder(': 'downloads a data set',
  '--format onnx': 'needs an environment of its own: tests/inference has one',
  'data.shards=cc3m=': 'is an option, no command',
  'groupvit serve': 'tests/serve runs it, where Gradio is installed',
  "printf '": 'tests/serve runs it, where Gradio is installed',
  'runs replay': 'needs a run that diverged: tests/training/test_loop.py',
  'runs show': 'needs runs: tests/training/test_overview.py',
}
TEXT = (
  'text.width=16,text.depth=1,text.num_heads=2,text.context_length=16,'
  'joint.embed_dim=16,dtype=float32,matmul_operands=float32,remat=false,'
  'optimizer.warmup_steps=1,steps=2,batch=8,examples=24,data.cache=cache'
)
GROUPVIT = (
  'size=16,patch=8,width=16,depths=1x0,tokens=3x0,groups=3x0,model.num_heads=2,'
  'eval.examples=2,eval.batch_size=8,eval.short_side=16,run.pictures=2,'
  f'run.log_every=1,run.eval_every=2,{TEXT}'
)
CLIP = f'size=32,width=16,model.num_heads=2,eval.source=,{TEXT}'
# Behind a sub-command, unless the page says so itself.
SMALL = {
  'evaluate': {'--limit': '2', '--size': '16'},
  'probe': {'--limit': '36', '--seeds': '1', '--shots': '1'},
}
SMALLER = {
  '--shots 1,2,4,8,16': '--shots 1',
  '--data imagenet-r': '--data imagenet-r --set templates=simple',
  '16000': '40',  # the captions here have few words
  'RN50.pt my_clip': 'RN50.pt without_words',  # its vocabulary is a test's
  '--limit 50 --size 64': '--limit 2 --size 16',
  # The batch is small as well.
  'accumulate=16,': '',
  'accumulate=2,': '',
  'limit=20': 'limit=2, overrides=build.at_size(16)',
}


def blocks(page):
  text = (ROOT / page).read_text()
  found = re.findall(r'^ *```(sh|python)\n(.*?)^ *```', text, re.M | re.S)
  return [(kind, textwrap.dedent(block)) for kind, block in found]


def commands(block):
  block = re.sub(r'(^|\s)#.*', '', block).replace('\\\n', ' ')
  # A quoted text may have several lines.
  return re.findall(r"""(?:[^\n'"]|'[^']*'|"[^"]*")+""", block)


def write_pairs(root, count=24):
  (root / 'photos').mkdir()
  lines = ['image,caption']
  for i in range(count):
    scene = scenes.generate(1, i, 32)
    Image.fromarray(scene.image).save(root / 'photos' / f'{i}.png')
    lines.append(f'{i}.png,"{scene.captions[0]}"')
  (root / 'captions.csv').write_text('\n'.join(lines))
  words = [f'{a}{b}{c}' for a in 'abcdefgh' for b in 'aeiou' for c in 'klmnrst']
  (root / 'captions.txt').write_text('\n'.join(words))


def write_voc(root, write_image):
  for i in range(2):
    write_image(root / 'JPEGImages' / f'{i}.jpg', i)
  (root / 'SegmentationClass').mkdir()
  (root / 'ImageSets' / 'Segmentation').mkdir(parents=True)
  mask = np.kron(np.array([[0, 3], [15, 255]], np.uint8), np.ones((10, 13)))
  for i in range(2):
    path = root / 'SegmentationClass' / f'{i}.png'
    Image.fromarray(mask.astype(np.uint8)).save(path)
  (root / 'ImageSets' / 'Segmentation' / 'val.txt').write_text('0\n1\n')


def write_flickr(root, write_image):
  images = []
  for i in range(2):
    write_image(root / 'images' / f'{i}.png', i)
    sentences = [{'raw': f'a {word}'} for word in ('cat', 'dog')]
    images.append(
      {'split': 'test', 'filename': f'{i}.png', 'sentences': sentences}
    )
  text = json.dumps({'images': images})
  (root / 'dataset_flickr30k.json').write_text(text)


def write_models(tiny_inference):
  """Tiny ones under the names of others; runs are opened in the same way."""
  named = 'my_model', 'nvidia/groupvit-gcc-yfcc', 'runs/demo', 'runs/mine'
  for name in (*named, 'runs/gcc_yfcc'):
    model_folder.write(name, tiny_inference.source())
  named = 'clip_folder', 'my_clip', 'openai/clip-vit-base-patch32', 'runs/clip'
  for name in named:
    model_folder.write(name, tiny_inference.vit())
  archive = ROOT / 'tests/testdata/clip_files/resnet/model.pt'
  shutil.copy(archive, 'RN50.pt')


@pytest.fixture(scope='module')
def world(tmp_path_factory, tiny_inference, evaluation_folders):
  """The folder in which the commands run."""
  root = tmp_path_factory.mktemp('world')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(root)
    patch.setenv('XDG_CACHE_HOME', str(root / 'cache'))
    one = jax.devices()[:1]  # what is compiled for one takes less time
    patch.setattr(jax, 'devices', lambda *backend: one)
    patch.setattr(jax, 'device_count', lambda *backend: 1)
    (root / 'configs').symlink_to(ROOT / 'configs')
    write_pairs(root)
    shutil.copy('photos/0.png', 'photo.jpg')  # read by its content
    write_voc(root / 'VOC2012', evaluation_folders.write_image)
    for name in ('data/VOC2012', 'data/VOCdevkit/VOC2012'):
      shutil.copytree('VOC2012', name)
    write_flickr(root / 'flickr30k', evaluation_folders.write_image)
    evaluation_folders.segmented(root / 'my_data', count=1)
    for name in ('cifar10/train', 'cifar10/test', 'imagenet-r'):
      evaluation_folders.classified(root / name, map(str, range(10)))
    write_models(tiny_inference)
    pairs = 'captions.csv my --images photos --short-side 256'
    run(f'groupvit data convert {pairs}')
    shards = 'gcc3m_shards/gcc-train-000000', 'yfcc14m_shards/yfcc14m-000000'
    shards = *(f'local_data/{name}' for name in shards), 'cc12m/00000'
    for name in (*shards, 'data/cc12m-00000'):
      pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy('my/00000.tar', f'{name}.tar')
    # Scenes are drawn into memory, as without TensorFlow.
    patch.setattr(inputs, 'ON_DISK_NEEDS', ('no_such_package',))
    yield root


def run(line):
  """A command of a page, in this process."""
  line = line.replace('python -m groupvit_jax.main', 'groupvit train')
  program, *words = shlex.split(line)
  if program == 'python' and words[0] == '-c':
    exec(words[1], {})
  elif words == ['--help']:
    with pytest.raises(SystemExit):
      cli.main(words)
  elif words[0] == 'train':
    config, _ = read_flags(words[1:])
    with inputs.Inputs(config, sharding.make_mesh()) as data:
      batch = next(data.train_batches(0))
    assert len(batch['image']) == config.batch_size
  else:
    assert program == 'groupvit'
    command, *_ = words
    if command in ('segment', 'convert', 'export') or '--out' in words:
      words += ['--overwrite'] * (command != 'probe')
    for option, value in SMALL.get(command, {}).items():
      if option not in words and not (option == '--size' and whole(words)):
        words += [option, value]
    assert cli.main(words) == 0, words


def whole(words):
  """Whether a benchmark is of whole images, which have no windows."""
  benchmark = words[words.index('--benchmark') + 1]
  return benchmark not in ('voc21', 'folder', 'scenes')


def read_flags(words):
  """The config of a training command, made small, and the base of it."""
  (config,) = [word for word in words if word.startswith('--config=')]
  small = GROUPVIT
  if 'clip.py' in config:
    resnet = 'rn50' in config or 'resnet' in config
    small = 'model.depths=1x1x1x1' if resnet else 'patch=8,model.depth=1'
    small = f'{small},{CLIP}'
  argv = ['main', f'{config},{small}', *(w for w in words if w != config)]
  with pytest.MonkeyPatch.context() as patch, flagsaver.flagsaver():
    patch.setattr(sys, 'argv', argv)  # where config_flags looks
    app.define_help_flags()
    main._parse_flags(argv)
    return main._CONFIG.value, main._base()


def is_elsewhere(text):
  return any(part in text for part in ELSEWHERE)


@pytest.mark.parametrize('page', PAGES)
def test_what_a_page_shows_runs(page, world):
  known = {'names': ['dog', 'sky'], 'images': ['photo.jpg'], 'texts': ['a dog']}
  for kind, block in blocks(page):
    block = block.replace('/data/', f'{world}/data/')
    for long, short in SMALLER.items():
      block = block.replace(long, short)
    if kind == 'sh':
      for line in commands(block):
        if not is_elsewhere(line):
          run(line)
    elif not is_elsewhere(block):
      exec(block, known)


@pytest.mark.slow
def test_every_training_of_a_page_trains(world):
  lines = [
    line.replace('python -m groupvit_jax.main', 'groupvit train')
    for page in PAGES
    for kind, block in blocks(page)
    for line in commands(block.replace('/data/', f'{world}/data/'))
    if kind == 'sh' and not is_elsewhere(line)
  ]
  lines = [line for line in lines if line.startswith('groupvit train')]
  assert len(lines) > 10
  for i, line in enumerate(lines):
    config, base = read_flags(shlex.split(line)[2:])
    summary = loop.train_and_evaluate(config, world / f'trained/{i}', base)
    assert summary['steps'] == 2, line


def test_what_runs_elsewhere_is_on_a_page():
  shown = '\n'.join(block for page in PAGES for _, block in blocks(page))
  shown = shown.replace('\\\n', ' ')
  assert all(part in shown for part in ELSEWHERE)
