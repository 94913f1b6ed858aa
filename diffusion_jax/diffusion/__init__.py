"""The pure maths of diffusion: knows arrays, and nothing of networks, data or devices."""
