"""CLIP by the recipe of its paper (arXiv 2103.00020), and small forms of it.

Launch:
  python -m groupvit_jax.main --config=configs/clip.py:demo --workdir=runs/clip

Variants (several may follow each other, later ones win):
  (none)        ViT-B/32, sized for accelerators: batch 32,768
  b16           ViT-B/16
  rn50          the modified ResNet-50
  demo          a small ViT on small scenes: 2 CPU cores, minutes
  resnet        a small ResNet, after demo
  sigmoid       SigLIP's loss of all pairs instead of the softmax

Options follow after commas: `:demo,steps=200,seed=1`; any field works by its
dotted path. `init_from=FOLDER` begins with the weights of a converted CLIP or
of another run. The weights are in the workdir: `groupvit ... --model runs/clip`
and `gv.load('runs/clip')` open it, `groupvit convert runs/clip my_clip` makes a
model folder of it. docs/clip.md has what was measured.
"""

import pathlib
import runpy

import ml_collections

from groupvit_jax.models import build
from groupvit_jax.training import config as config_lib

ALIASES = {
  'steps': 'num_steps',
  'batch': 'batch_size',
  'size': 'image_size',
  'patch': 'model.patch_size',
  'width': 'model.width',
  'lr': 'optimizer.learning_rate',
  'examples': 'data.train_examples',
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config of `arg`, such as 'demo,resnet,steps=200'."""
  return config_lib.from_arg(arg, _base(), VARIANTS, ALIASES)


def _base() -> ml_collections.ConfigDict:
  """ViT-B/32 with the paper's recipe (tables 18 to 20), on tar shards."""
  # Data, evaluation and how a run is watched: the fields of gvit_s.py.
  beside = pathlib.Path(__file__).with_name('gvit_s.py')
  c = runpy.run_path(str(beside))['get_config']()
  c.task = 'clip_vit'  # or 'clip_resnet': names in training.task.TASKS
  c.batch_size = 32_768  # pairs per step, over all devices
  c.num_steps = 390_625  # 32 epochs of 400 million pairs
  c.remat = True  # recompute activations backwards: slower, less memory
  c.init_from = ''  # a converted CLIP or a workdir; '' is from scratch

  c.model = ml_collections.ConfigDict()
  c.model.patch_size = 32
  c.model.width = 768
  c.model.depth = 12
  c.model.num_heads = 12
  c.text.width = 512
  c.text.depth = 12
  c.text.num_heads = 8
  c.joint = ml_collections.ConfigDict()
  c.joint.embed_dim = 512  # width of the space that image and text share

  c.loss = ml_collections.ConfigDict()
  c.loss.name = 'softmax'  # or 'sigmoid' (SigLIP, arXiv 2303.15343)
  c.loss.chunk_size = 0  # columns of the similarity at a time; 0 is all

  c.data.source = 'shards'
  c.data.augment = 'square'  # a random square crop, as the paper's
  c.data.normalization = 'clip'  # pixel statistics, or 'imagenet'
  # Of nouns, which only GroupViT is trained with.
  del c.data.word_kind, c.data.templates, c.data.erase_probability

  c.optimizer.reference_batch_size = 32_768  # rates are stated for it
  c.optimizer.learning_rate = 5e-4
  c.optimizer.warmup_init = 0.0
  c.optimizer.end_learning_rate = 0.0
  c.optimizer.warmup_steps = 2000
  c.optimizer.b2 = 0.98  # .999 for ResNets
  c.optimizer.eps = 1e-6  # 1e-8 for ResNets
  c.optimizer.weight_decay = 0.2  # not on gains and biases
  c.optimizer.decay_scalars = False  # nor on the logit scale
  c.optimizer.clip_norm = 0.0  # global norm of the gradient; 0: as it is

  # Zero-shot evaluation on the way: 'scene_crops', 'scene_captions', '' for
  # none, or NAME:PATH of a benchmark, as in 'cifar10:/data/cifar10'.
  c.eval.source = ''
  c.eval.regions = 'kmeans'  # of segmentation
  c.run.eval_every = 5000
  c.run.checkpoint_every = 1000
  c.cpu = {}
  return c


def _b16(c) -> None:
  """ViT-B/16."""
  c.model.patch_size = 16


def _rn50(c) -> None:
  """RN50."""
  a = build.clip_resnet('RN50')
  _resnet_of(c, a['image'], a['embed_dim'])


def _demo(c) -> None:
  """2 CPU cores, minutes, data and compilation included."""
  c.image_size = 64
  c.batch_size = 64
  c.num_steps = 1000
  c.dtype = 'float32'
  c.matmul_operands = 'auto'
  c.remat = False
  c.model.patch_size = 8
  c.model.width = 64
  c.model.depth = 2
  c.model.num_heads = 2
  c.text.context_length = 20
  c.text.width = 64
  c.text.depth = 1
  c.text.num_heads = 2
  c.joint.embed_dim = 64
  c.data.source = 'scenes'
  c.data.train_examples = 30_000
  # Crops bring things to the size of the evaluation's.
  c.data.augment = 'light'
  c.optimizer.name = 'muon'
  c.optimizer.reference_batch_size = 64
  c.optimizer.learning_rate = 2e-3
  c.optimizer.warmup_steps = 50
  c.optimizer.weight_decay = 0.05
  c.optimizer.clip_norm = 5.0
  c.eval.source = 'scene_crops'
  c.eval.examples = 400
  c.run.eval_every = 500
  c.run.checkpoint_every = 500


def _resnet(c) -> None:
  """A ResNet about as large as the demo's ViT."""
  image = {'width': 8, 'depths': (1, 1, 1, 1), 'num_heads': 4}
  _resnet_of(c, image, c.joint.embed_dim)


def _resnet_of(c, image, embed_dim) -> None:
  c.task = 'clip_resnet'
  c.matmul_operands = 'float32'
  c.model = ml_collections.ConfigDict()
  for name in ('width', 'depths', 'num_heads'):
    value = image[name]
    c.model[name] = tuple(value) if name == 'depths' else value
  c.joint.embed_dim = embed_dim
  c.optimizer.b2 = 0.999
  c.optimizer.eps = 1e-8


def _sigmoid(c) -> None:
  """SigLIP's loss; scale and bias start as theirs."""
  c.loss.name = 'sigmoid'


VARIANTS = {
  'b16': _b16,
  'rn50': _rn50,
  'demo': _demo,
  'resnet': _resnet,
  'sigmoid': _sigmoid,
}
