"""Metadata is in pyproject.toml; setup.py serves tools that call it."""

import setuptools

setuptools.setup()
