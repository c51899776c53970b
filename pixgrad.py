"""pixgrad: DeepDream, neural style and integrated gradients over image collections, as Ray batch jobs.

The command line is ``pixgrad``; this module only tells which version is installed.
"""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("pixgrad")
