"""groupvit_jax: GroupViT (CVPR 2022) in JAX and Flax."""

import pathlib
import re

import setuptools

_ROOT = pathlib.Path(__file__).parent
_VERSION = re.search(
  r"__version__ = '(.+)'", (_ROOT / 'groupvit_jax/__init__.py').read_text()
).group(1)

# Everything that loading a model, segmenting, and training on the embedded
# scenes needs. No TensorFlow and no PyTorch here.
_BASE = [
  'absl-py>=2.1',
  'clu>=0.0.12,<0.1',
  'flax>=0.12,<0.14',
  'ftfy>=6.1,<7',
  'jax>=0.10,<0.13',
  'jaxtyping>=0.3,<0.4',
  'ml_collections>=1.0,<2',
  'ml_dtypes>=0.5,<1',
  'numpy>=2.0,<3',
  'optax>=0.2.6,<0.3',
  'orbax-checkpoint>=0.11.20,<0.13',
  'Pillow>=10.3,<14',
  'pycocotools>=2.0.10,<3',
  'regex>=2024.4',
  'safetensors>=0.5,<1',
  'sentencepiece>=0.2,<0.3',
  'textblob>=0.19,<0.21',
  'tqdm>=4.66,<5',
]

_TRAIN = [
  'array_record>=0.8,<0.9',
  # tfds and clu use these two without declaring them.
  'importlib_resources>=6',
  'tensorboard>=2.20,<2.22',
  'scikit-learn>=1.5,<2',
  'tensorflow-cpu>=2.20,<2.22; platform_system != "Darwin"',
  'tensorflow>=2.20,<2.22; platform_system == "Darwin"',
  'tensorflow-datasets>=4.9.9,<5',
]

_TEST = [
  'beartype>=0.20,<0.24',
  'ipykernel>=6,<8',
  'matplotlib>=3.9,<4',
  'nbclient>=0.10,<0.12',
  'nbformat>=5.10,<6',
  'pytest>=8,<10',
  'pytest-xdist>=3.6,<4',
  'ruff>=0.17,<0.18',
  'tokenizers>=0.21,<0.24',
]

setuptools.setup(
  name='groupvit_jax',
  version=_VERSION,
  description='Semantic segmentation emerges from text supervision, in JAX.',
  long_description=(_ROOT / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=setuptools.find_packages(include=['groupvit_jax*']),
  package_data={
    'groupvit_jax': ['text/assets/*', 'benchmarks/assets/*', '*.html', '*.css']
  },
  install_requires=_BASE,
  extras_require={
    'train': _TRAIN,
    'test': _TEST,
    # Writes the goldens and reads PyTorch weights; heavy, so never required.
    'torch': ['torch>=2.6,<3', 'transformers>=5,<6', 'open_clip_torch>=3,<4'],
    'colab': ['matplotlib>=3.9,<4'],
  },
  entry_points={'console_scripts': ['groupvit=groupvit_jax.cli:main']},
)
