"""`diffusion-jax NAME …`, one file a command."""
