"""Functions without NaN: in value and every derivative, each by a stated convention.

Where a function ends, autodiff's derivative is infinite or NaN, and ``jnp.where`` about
it does not help: the NaN of the branch that is not taken times zero is NaN.  Here value
and derivatives are chosen there, mostly 0: nothing flows back from where nothing is.

For all of them: derivatives of every order, in forward and reverse mode, are finite for
finite inputs.  One that is larger than 2^104 in float32 and bfloat16, 2^832 in float64
or 2^15 in float16 is held there, so that its product with a zero tangent is zero.  NaN
gives NaN.  float8, bfloat16 and float16 compute in float32 and round once.
"""

from ._elementwise import arccos as arccos
from ._elementwise import arctanh as arctanh
from ._elementwise import divide as divide
from ._elementwise import log as log
from ._elementwise import power as power
from ._elementwise import sqrt as sqrt
from ._logarithms import entropy as entropy
from ._logarithms import kl_divergence as kl_divergence
from ._logarithms import logaddexp as logaddexp
from ._logarithms import softmax_entropy as softmax_entropy
from ._logarithms import xlog1py as xlog1py
from ._logarithms import xlogy as xlogy
from ._vectors import norm as norm
from ._vectors import normalize as normalize
