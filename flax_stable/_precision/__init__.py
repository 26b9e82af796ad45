"""Compute wide, round once; float32 kernels with a known error.

XLA's own ``log1p`` is off by 2.5 units in the last place in float32 and slow, ``expm1``
by 5 in older releases; its ``exp`` is good to 1 unit, but guards ends that a bounded
argument never reaches.  The kernels here are polynomials of few terms, with powers of
two made of bits.  What is rounded to 16 bits takes the coarse ones.

XLA folds ``(x - a) - b`` into ``x - (a + b)``: a constant in two parts therefore goes
into a sum with a rounded term between the two.  On CPU it ends a loop at a quotient of
two arrays that is used twice, which costs passes over the memory: formulas in float32
use each quotient once, or multiply by a reciprocal.
"""

from .exponentials import LIFT as LIFT
from .exponentials import LN2 as LN2
from .exponentials import Exp as Exp
from .exponentials import Root as Root
from .exponentials import exp as exp
from .exponentials import exp2_ratio as exp2_ratio
from .exponentials import exp_parts as exp_parts
from .exponentials import exp_ratio as exp_ratio
from .exponentials import exp_sum as exp_sum
from .exponentials import expm1 as expm1
from .exponentials import expm1_parts as expm1_parts
from .exponentials import faint_exp as faint_exp
from .exponentials import far_exponent as far_exponent
from .exponentials import halved as halved
from .exponentials import lifted as lifted
from .exponentials import power_of_two as power_of_two
from .exponentials import scaled_exp as scaled_exp
from .exponentials import split_exp as split_exp
from .logarithms import binary_scaled as binary_scaled
from .logarithms import coarse_log1p as coarse_log1p
from .logarithms import log1p as log1p
from .logarithms import log_product as log_product
from .logarithms import short_log1p as short_log1p
from .parts import Parts as Parts
from .parts import constant_parts as constant_parts
from .parts import head as head
from .parts import lifted_exp_parts as lifted_exp_parts
from .parts import nearest_parts as nearest_parts
from .parts import product as product
from .parts import product_parts as product_parts
from .parts import quotient as quotient
from .parts import quotient_parts as quotient_parts
from .parts import square_parts as square_parts
from .parts import sum_parts as sum_parts
from .parts import unlift as unlift
from .rounding import falling_zero as falling_zero
from .rounding import narrow as narrow
from .rounding import polynomial as polynomial
from .rounding import widen as widen
