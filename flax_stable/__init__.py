"""Activations and layers for Flax whose derivative rules are chosen, not derived."""

from . import linen as linen
from . import nnx as nnx
from . import testing as testing
from ._activations.elu import celu as celu
from ._activations.elu import elu as elu
from ._activations.elu import selu as selu
from ._activations.gelu import gelu as gelu
from ._activations.hard import hard_sigmoid as hard_sigmoid
from ._activations.hard import hard_silu as hard_silu
from ._activations.hard import hard_swish as hard_swish
from ._activations.hard import hard_tanh as hard_tanh
from ._activations.hard import sparse_plus as sparse_plus
from ._activations.hard import sparse_sigmoid as sparse_sigmoid
from ._activations.log1mexp import log1mexp as log1mexp
from ._activations.log_cosh import log_cosh as log_cosh
from ._activations.mish import mish as mish
from ._activations.normal import log_ndtr as log_ndtr
from ._activations.piecewise import identity as identity
from ._activations.piecewise import leaky_relu as leaky_relu
from ._activations.piecewise import relu as relu
from ._activations.piecewise import relu6 as relu6
from ._activations.piecewise import relu_squared as relu_squared
from ._activations.sigmoid import sigmoid as sigmoid
from ._activations.sigmoid import tanh as tanh
from ._activations.silu import silu as silu
from ._activations.silu import swish as swish
from ._activations.snake import snake as snake
from ._activations.soft_sign import soft_sign as soft_sign
from ._activations.softcap import softcap as softcap
from ._activations.softmax import log_softmax as log_softmax
from ._activations.softmax import logmeanexp as logmeanexp
from ._activations.softmax import logsumexp as logsumexp
from ._activations.softmax import softmax as softmax
from ._activations.softplus import inverse_softplus as inverse_softplus
from ._activations.softplus import log_sigmoid as log_sigmoid
from ._activations.softplus import softplus as softplus
from ._activations.squareplus import squareplus as squareplus
from ._activations.standardize import standardize as standardize
from ._blocks import activation_dense as activation_dense
from ._blocks import gated_dense as gated_dense
from ._custom_vjp import custom_vjp as custom_vjp
from ._gated import glu as glu
from ._positive import near_permutation as near_permutation

__version__ = "0.1.0"
