"""GroupViT-S and its variants: one base, small changes, all named here.

Launch:
  python -m groupvit_jax.main --config=configs/gvit_s.py:demo \\
    --workdir=runs/demo

Variants (several may follow each other, later ones win):
  (none)        full-size GroupViT-S, 224 px, on the embedded scenes; sized for
                one accelerator
  demo          a small model on small images: 2 CPU cores, 12 minutes
  gcc_yfcc      the released recipe on CC3M + CC12M + YFCC14M (52.3 mIoU on
                VOC in the original's README)
  gcc_redcaps   the released recipe on CC3M + CC12M + RedCaps12M (50.8)
  one_stage     the paper's 1-stage layout (Table 1 and 2)
  tied          our form: content tied to region (see `_tied`)
  photos        a small model on your captioned photos, an hour on 2 CPU cores:
                `:photos,data.shards=MY.tar,data.tokenizer=MY.model`
  clip          the baseline: a ViT of the same size without groups, whose
                patches k-means groups afterwards (paper, Table 4)

Options follow after commas: `:demo,steps=200,seed=1`; any field works by its
dotted path (`loss.balance_weight=0.3`), sequences are written `6x3x3`.
Measured results: benchmarks/RESULTS.md.
"""

import ml_collections

from groupvit_jax.models import build, groupvit, text
from groupvit_jax.training import config as config_lib

ALIASES = {
  'steps': 'num_steps',
  'batch': 'batch_size',
  'size': 'image_size',
  'patch': 'model.patch_size',
  'width': 'model.width',
  'depths': 'model.depths',
  'tokens': 'model.num_group_tokens',
  'groups': 'model.num_output_groups',
  'lr': 'optimizer.learning_rate',
  'nouns': 'loss.num_nouns',
  'examples': 'data.train_examples',
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """Returns the config of `arg`, such as 'demo,steps=200'."""
  return config_lib.from_arg(arg, _base(), VARIANTS, ALIASES)


def _base() -> ml_collections.ConfigDict:
  """GroupViT-S with the released model, loss and optimizer, on scenes."""
  c = ml_collections.ConfigDict()
  c.task = 'groupvit'  # a name in training.task.TASKS
  c.seed = 0  # of initialisation, noise, and data order
  c.image_size = 224  # pixels per side
  c.batch_size = 1024  # images per step, over all devices
  c.num_steps = 10_000  # optimizer updates
  c.dtype = 'bfloat16'  # of the computation; parameters stay float32
  # Of products in float32: or 'bfloat16', rounded, with float32 sums:
  # faster on processors with AVX512-BF16 or AMX; 'auto' measures at the start.
  c.matmul_operands = 'float32'
  c.remat = False  # recompute activations backwards: slower, less memory

  c.model = _sizes(groupvit.GroupViT)
  c.model.mlp_ratio = 4.0  # hidden over outer width
  c.model.drop_path_rate = 0.1  # of the last block, linear from 0
  c.model.assignment = 'hard'  # 'hard' (straight-through Gumbel) or 'soft'
  c.model.gumbel_temperature = 1.0  # of the noise softmax in training
  c.model.group_residual = True  # False: a group is only its patches
  c.model.pre_assign_attn = True  # group tokens read the patches first
  c.model.token_mixer = True  # MLP over the token axis before assignment
  c.model.gumbel_noise = 1.0  # factor on the noise of training
  c.model.center_keys = False  # group by differences within the image
  c.model.init_std = 0.02  # of the image encoder's kernels at the start

  c.text = _sizes(text.TextTransformer)  # vocab_size comes from the tokenizer
  c.joint = ml_collections.ConfigDict()
  c.joint.embed_dim = 256  # width of the space that image and text share
  c.joint.projector_width = 4096  # hidden; 0 makes the projector one linear

  c.loss = ml_collections.ConfigDict()
  c.loss.contrastive_weight = 1.0  # image <-> caption
  c.loss.multi_label_weight = 1.0  # image <-> prompted nouns
  c.loss.num_nouns = 3  # nouns per image; 0 turns the multi-label loss off
  c.loss.multi_label_form = 'released'  # or 'paper': -log sum p
  c.loss.noun_match = 'pooled'  # or 'best_group': max over groups
  c.loss.noun_scale = 6.0  # logit scale where nouns match groups
  c.loss.share_nouns = False  # equal nouns of a batch are no negatives
  c.loss.balance_weight = 0.0  # use all groups of the last stage over a batch
  c.loss.sharpness_weight = 0.0  # one group of the last stage per token of it
  # Token-noun loss: nouns against token embeddings. Tokens are those that the
  # last stage groups: patches if it is the only stage, else the groups of the
  # first. Without what group_residual=True adds to a group.
  c.loss.part_weight = 0.0
  c.loss.background_weight = 0.0  # learn what no noun names; 0: no such token
  # Comparisons with each image at a time, its groups counted; 0 is all.
  c.loss.chunk_size = 0

  c.data = ml_collections.ConfigDict()
  # 'scenes'; 'shards': img2dataset / webdataset tars; 'records': TFRecord or
  # ArrayRecord files; 'tfds': a prepared TFDS data set.
  c.data.source = 'scenes'
  # Paths or addresses: braces and globs as in the shell, also NAME=PATTERN.
  c.data.shards = ()
  c.data.tfds = ()  # BUILDER:SPLIT, such as coco_captions:train
  c.data.tfds_dir = ''  # where it was prepared; '' is TFDS's own folder
  c.data.image_feature = ''  # of records and tfds; '' finds the usual names
  c.data.caption_feature = ''
  c.data.weights = ()  # NAME=WEIGHT of each source; () is by their sizes
  # 'full': a permutation of all samples; 'streams': shards one after another,
  # shuffled nearby; 'auto': streams if a shard is remote.
  c.data.order = 'auto'
  c.data.streams = 8  # shards that are read at the same time
  c.data.window = 4096  # samples of a stream that are shuffled together
  # Where prepared scenes and fetched shards are kept.
  c.data.cache = '~/.cache/groupvit_jax'
  c.data.cache_gb = 50.0  # most that fetched shards take, 1e9 bytes
  c.data.seed = 0  # of the generated scenes
  c.data.train_examples = 100_000  # scenes to train on
  c.data.augment = 'light'  # or 'none', 'flip', 'square', the released 'deit'
  # Where flips and RandAugment happen: 'host' or 'device' (inside the step).
  c.data.augment_on = 'host'
  c.data.erase_probability = 0.0  # random erasing; the released has 0.25
  c.data.tokenizer = 'clip'  # or the path of a sentencepiece model
  c.data.word_kind = 'nouns_and_verbs'  # or 'nouns', 'noun_phrases'
  c.data.templates = 'full'  # prompts of nouns: or 'subset', 'simple', 'tcl'
  c.data.backend = 'auto'  # whose threads: 'tf' (tf.data), 'numpy', or 'auto'

  c.optimizer = ml_collections.ConfigDict()
  c.optimizer.name = 'adamw'  # the released, or 'muon'
  c.optimizer.reference_batch_size = 4096  # learning rates are stated for it
  c.optimizer.learning_rate = 1.6e-3
  c.optimizer.warmup_init = 4e-6
  c.optimizer.end_learning_rate = 4e-5
  c.optimizer.warmup_steps = 500
  c.optimizer.b1 = 0.9
  c.optimizer.b2 = 0.999
  c.optimizer.eps = 1e-8
  c.optimizer.weight_decay = 0.05  # not on 1-D parameters and biases
  c.optimizer.clip_norm = 5.0  # global norm of the gradient

  c.eval = ml_collections.ConfigDict()
  # Zero-shot evaluation on the way: 'scenes', '' for none, or NAME:PATH of a
  # benchmark of `groupvit evaluate`, as in 'voc21:/data/VOC2012'.
  c.eval.source = 'scenes'
  c.eval.examples = 1000  # validation images; of a benchmark, 0 is all
  c.eval.batch_size = 100
  c.eval.protocol = 'groupvit'  # of a benchmark, or 'tcl'
  c.eval.short_side = 0  # of a benchmark's images; 0 is image_size
  c.eval.templates = 'simple'  # prompts of scenes; a protocol has its own
  c.eval.top_k = 5  # classes that the whole image may name; 0 is all
  c.eval.regroup = 'none'  # 'kmeans': groups remade from the tokens
  c.eval.regroup_number = 0  # how many of these; 0 is as many as learned
  c.eval.one_hot = True  # a pixel is of one group; False mixes their scores
  c.eval.mix_logits = False  # mix logarithms of scores, if any are mixed
  c.eval.regions = 'model'  # 'kmeans', ... for a task without groups

  # How it lies on the devices; may change when it is resumed.
  c.mesh = ml_collections.ConfigDict()
  # Devices that share one copy of parameters and optimizer state; 1: each its
  # own. The batch is split over all devices either way.
  c.mesh.fsdp = 1
  # Parts that a batch is encoded in, for less memory; its negatives, noise and
  # gradient stay those of the whole batch (GradCache).
  c.accumulate = 1

  # How the run is watched; may change when it is resumed.
  c.run = ml_collections.ConfigDict()
  c.run.log_every = 50  # steps
  c.run.eval_every = 1000
  c.run.checkpoint_every = 500
  c.run.keep = 2  # newest checkpoints on disk
  c.run.pictures = 24  # validation pictures in the report
  c.run.accept_other_data = False  # resume on data that have changed
  c.run.max_skipped = 10  # steps in a row without a finite gradient
  c.run.wandb = ''  # project of Weights & Biases; '' logs nothing there

  # Replaces fields where there is no accelerator, so that this starts and
  # progresses on a laptop too.
  c.cpu = ml_collections.ConfigDict()
  c.cpu.batch_size = 16
  c.cpu.dtype = 'float32'
  c.cpu.data = {'train_examples': 2000}
  c.cpu.eval = {'examples': 50, 'batch_size': 10}
  c.cpu.run = {'log_every': 1, 'checkpoint_every': 50}
  return c


def _demo(c) -> None:
  """2 CPU cores, 12 minutes, data and compilation included."""
  c.image_size = 64
  c.batch_size = 64
  c.num_steps = 6000
  c.dtype = 'float32'
  c.matmul_operands = 'auto'
  c.model.patch_size = 8
  c.model.width = 64
  c.model.num_heads = 2
  c.model.depths = (2, 0)
  c.model.num_group_tokens = (16, 0)
  c.model.num_output_groups = (16, 0)
  c.model.drop_path_rate = 0.0
  _tied(c)
  c.text.context_length = 20
  c.text.width = 64
  c.text.depth = 1
  c.text.num_heads = 2
  c.joint.embed_dim = 64
  c.joint.projector_width = 0
  c.data.train_examples = 30_000
  # Crops move things from the middle, where they are drawn: without them a
  # token's position says 'thing' (docs/research/emergence.md).
  c.data.augment = 'light'
  c.data.word_kind = 'nouns'
  c.data.templates = 'simple'
  c.optimizer.name = 'muon'
  c.optimizer.reference_batch_size = 64
  c.optimizer.learning_rate = 2e-3
  c.optimizer.warmup_init = 1e-5
  c.optimizer.end_learning_rate = 1e-5
  c.optimizer.warmup_steps = 50
  c.eval.examples = 400
  c.run.log_every = 50
  c.run.eval_every = 500
  c.run.checkpoint_every = 500
  c.cpu = {}


def _photos(c) -> None:
  """A demo on photos of 96 px; benchmarks/photos.py prepares the data."""
  _demo(c)
  c.image_size = 96
  c.num_steps = 15_000
  c.model.patch_size = 12
  c.data.source = 'shards'
  c.eval.source = ''  # say voc21:FOLDER to watch it
  c.eval.examples = 60
  c.eval.batch_size = 20
  c.run.eval_every = 5000


def _tied(c) -> None:
  """Ties a group's content to its region; ours, not the paper's.

  The released block reads a group's content globally and keeps it by the
  residual, so that at small scale the right labels land on wrong regions.
  docs/research/emergence.md has what was measured of it.
  """
  c.model.group_residual = False
  c.model.pre_assign_attn = False
  c.model.center_keys = True
  c.model.gumbel_noise = 0.1
  c.model.init_std = c.model.width**-0.5
  # No block mixes groups after the last grouping.
  c.model.depths = (*c.model.depths[:-1], 0)
  c.loss.noun_match = 'best_group'
  c.loss.noun_scale = 10.0
  c.loss.part_weight = 1.0
  c.loss.balance_weight = 0.3
  c.loss.sharpness_weight = 0.03
  c.eval.top_k = 0  # nouns train the groups; the pooled image gates badly
  # Training makes the tokens better than the groups that taught them.
  c.eval.regroup = 'kmeans'
  c.eval.one_hot = False
  c.eval.mix_logits = True


def _one_stage(c) -> None:
  """The paper's 1-stage layout: 8 groups after half of the blocks."""
  half = sum(c.model.depths) // 2
  c.model.depths = (half, sum(c.model.depths) - half)
  c.model.num_group_tokens = (c.model.num_group_tokens[0], 0)
  c.model.num_output_groups = (8, 0)


def _clip(c) -> None:
  """A ViT of the same size; k-means makes the groups."""
  c.task = 'clip'
  c.loss.noun_match = 'pooled'
  c.loss.part_weight = 0.0
  c.eval.regions = 'kmeans'
  c.eval.regroup = 'none'
  c.eval.top_k = 5  # nouns do train the pooled image here


def _released(c) -> None:
  """Fields that both released recipes share (16 GPUs x 256 images)."""
  c.batch_size = 4096
  c.data.source = 'shards'
  c.data.augment = 'deit'
  c.data.erase_probability = 0.25
  c.eval.source = ''
  c.run.checkpoint_every = 1000
  c.run.eval_every = 7000
  c.cpu = {}


def _gcc_yfcc(c) -> None:
  """configs/group_vit_gcc_yfcc_30e.yml of the original: 30 x 6,997 steps."""
  _released(c)
  c.num_steps = 209_910
  c.optimizer.warmup_steps = 2 * 6_997
  c.data.shards = (
    'local_data/gcc3m_shards/gcc-train-{000000..000436}.tar',
    'local_data/gcc12m_shards/gcc-conceptual-12m-{000000..001943}.tar',
    'local_data/yfcc14m_shards/yfcc14m-{000000..001888}.tar',
  )


def _gcc_redcaps(c) -> None:
  """configs/group_vit_gcc_redcap_30e.yml: 30 x 6,326 steps, no nouns."""
  _released(c)
  c.num_steps = 189_780
  c.optimizer.warmup_steps = 2 * 6_326
  c.loss.num_nouns = 0
  c.data.shards = (
    'local_data/gcc3m_shards/gcc-train-{000000..000436}.tar',
    'local_data/gcc12m_shards/gcc-conceptual-12m-{000000..001943}.tar',
    'local_data/redcap12m_shards/redcap12m-{000000..001211}.tar',
  )


def _sizes(module) -> ml_collections.ConfigDict:
  """An encoder's sizes, without those that are stated once elsewhere."""
  sizes = build.released_sizes(module)
  elsewhere = ('image_size', 'vocab_size')
  return ml_collections.ConfigDict(
    {name: value for name, value in sizes.items() if name not in elsewhere}
  )


VARIANTS = {
  'demo': _demo,
  'gcc_yfcc': _gcc_yfcc,
  'gcc_redcaps': _gcc_redcaps,
  'one_stage': _one_stage,
  'tied': _tied,
  'photos': _photos,
  'clip': _clip,
}
