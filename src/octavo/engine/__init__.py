"""The engine: jobs, steps, what they cost in memory, and how a model is loaded for it."""

import numpy as np  # noqa: F401  # here, as Python 3.11 maps memory for each of its calls at some depths of imports
