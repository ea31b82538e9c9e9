"""The zero-shot engine, protocols, metrics and diagnosis; sees no model.

- `regions.encode`, `scoring.score`, `labelling.label`: the three steps.
- `config.SegmentConfig`, `config.make`: options of the steps, and protocols.
- `zero_shot.class_embeddings`: class names to unit vectors.
- `benchmark.BenchmarkEvaluator` and the evaluators in `image_level`:
  segmentation, classification, retrieval; `linear_probe.fit`: probes.
- `metrics`, `counts`: figures; `diagnosis.of_result`: where errors come from.
"""
