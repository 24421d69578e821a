from pathlib import Path
DEFAULT_MODEL=""
def resolve(reference, **kw): return Path(reference)
