"""Image inpainting on Ray: the stages, the networks and the commands under one name.

In the source tree ``pipeline``, ``models`` and ``jobs`` stand beside this folder, which links to
them: ``infill.pipeline`` is the same module in a checkout, in an installed package and in the
working directory that Ray sends to its nodes. Importing ``infill`` alone imports nothing else
but the handler of Ctrl-C, which a job has from its first import on.
"""

from infill.pipeline.interruption import watch_imports

__version__ = "0.1.0"

__all__ = ["__version__"]

watch_imports()
