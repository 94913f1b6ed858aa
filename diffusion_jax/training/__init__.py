"""One training step and one loop for diffusion models, classifiers and upsamplers."""
