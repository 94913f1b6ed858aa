"""The parser of a command's arguments."""

from diffusion_jax.command_line import Parser as Parser
