"""Weight decay and clipping for raw parameters, as Optax has them for plain ones.

Raw parameters, with names that start with ``raw_``, are read through transforms that a
tree of parameters does not tell.  So each function here takes ``parameters``, the
argument of `flax_stable.constrain`, and acts on what the layers read.  Names have to be
there: under `optax.flatten`, which takes them away, there is an error.
"""

from ._norms import clip_by_global_norm as clip_by_global_norm
from ._norms import global_norm as global_norm
from ._trees import raw_mask as raw_mask
from ._weights import add_decayed_weights as add_decayed_weights
from ._weights import shrink_weights as shrink_weights
