"""Compute wide, round once; float32 kernels with a known error.

XLA's own ``log1p`` is off by 2.5 units in the last place in float32 and slow, ``expm1``
by 5 in older releases; its ``exp`` is good to 1 unit, but guards ends that a bounded
argument never reaches.  The kernels here are polynomials of few terms, with powers of
two made of bits; `coefficients` is written by benchmarks/fit.py.  What is rounded to 16
bits takes XLA's own: `_activations/_half.py`.  docs/numerics.md explains all of it.

XLA folds ``(x - a) - b`` into ``x - (a + b)``: a constant in two words therefore goes
into a sum with a rounded term between the two.  On CPU it ends a loop at a quotient of
two arrays that is used twice, which costs passes over the memory: formulas in float32
use each quotient once, or multiply by a reciprocal.
"""

from .exponentials import LIFT as LIFT
from .exponentials import Exp as Exp
from .exponentials import exp as exp
from .exponentials import exp2_reduced as exp2_reduced
from .exponentials import exp_abs_scaled as exp_abs_scaled
from .exponentials import exp_polynomial as exp_polynomial
from .exponentials import exp_reduced as exp_reduced
from .exponentials import exp_reduced_short as exp_reduced_short
from .exponentials import exp_scaled as exp_scaled
from .exponentials import expm1 as expm1
from .exponentials import far_exponent as far_exponent
from .exponentials import half_scaled as half_scaled
from .exponentials import lift_scaled as lift_scaled
from .exponentials import power_of_two as power_of_two
from .exponentials import split_exp as split_exp
from .exponentials import times_exp as times_exp
from .logarithms import log1p as log1p
from .logarithms import log1p_half as log1p_half
from .logarithms import log1p_reduced as log1p_reduced
from .logarithms import log1p_short as log1p_short
from .logarithms import log_product as log_product
from .parts import Words as Words
from .parts import add_words as add_words
from .parts import div_words as div_words
from .parts import exp_words_scaled as exp_words_scaled
from .parts import hi_word as hi_word
from .parts import mul_words as mul_words
from .parts import nearest_words as nearest_words
from .parts import short_words as short_words
from .parts import square_words as square_words
from .parts import two_div as two_div
from .parts import two_prod as two_prod
from .parts import unlift as unlift
from .rounding import falling_zero as falling_zero
from .rounding import narrow as narrow
from .rounding import polynomial as polynomial
from .rounding import widen as widen
