"""Activations and layers for Flax whose derivative rules are chosen, not derived."""

import sys as _sys

from . import decay as decay
from . import gradient as gradient
from . import linen as linen
from . import nnx as nnx
from . import safe as safe
from . import testing as testing
from ._activations.elu import celu as celu
from ._activations.elu import elu as elu
from ._activations.elu import selu as selu
from ._activations.erfcx import erfcx as erfcx
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
from ._gated.units import geglu as geglu
from ._gated.units import glu as glu
from ._gated.units import reglu as reglu
from ._gated.units import swiglu as swiglu
from ._parametrization import Transform as Transform
from ._parametrization import constrain as constrain
from ._parametrization import positive_transform as positive_transform
from ._parametrization import unconstrain as unconstrain
from ._positive.initializers import fan_in_constant as fan_in_constant
from ._positive.initializers import icnn_initializers as icnn_initializers
from ._positive.initializers import moment_preserving as moment_preserving
from ._positive.initializers import near_permutation as near_permutation
from ._positive.transform import inverse_positive as inverse_positive
from ._positive.transform import positive as positive
from ._public import publish as _publish
from ._reproducible import reproducible_value_and_grad as reproducible_value_and_grad
from .host import host_function as host_function

_publish(_sys.modules[__name__], gradient, linen, nnx, safe, testing)

__version__ = "0.1.0"
